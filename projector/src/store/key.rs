//! Keys of rows. Every key begins with a tenant, and byte order is the order in which lists are paged.
//!
//! A tenant ends in a zero byte, which is below every character a tenant may have: `a` sorts before `a-` as the texts do. `_` is the
//! tenant of what belongs to the cluster as a whole.

use schemas::{Stream, StreamKind, TenantId};

/// What every key of a tenant begins with.
pub(crate) fn of_tenant(tenant: &TenantId) -> Vec<u8> {
    let mut key = Vec::with_capacity(TenantId::LENGTH_MAX + 18);
    key.extend_from_slice(tenant.as_str().as_bytes());
    key.push(0);
    key
}

/// What the key of every stream of a kind of a tenant begins with.
pub(crate) fn of_kind(tenant: &TenantId, kind: StreamKind) -> Vec<u8> {
    let mut key = of_tenant(tenant);
    key.push(kind as u8);
    key
}

/// The tenant that a key begins with; none for bytes that are no key of ours.
pub(crate) fn tenant_of(key: &[u8]) -> Option<TenantId> {
    let end = key.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&key[..end]).ok()?.parse().ok()
}

/// The first key past all of a tenant's.
pub(crate) fn past_tenant(tenant: &TenantId) -> Vec<u8> {
    let mut key = of_tenant(tenant);
    key.pop();
    key.push(1);
    key
}

/// The key of a stream: tenant, kind, id.
pub(crate) fn of_stream(stream: &Stream) -> Vec<u8> {
    let mut key = of_kind(stream.tenant(), stream.kind());
    key.extend_from_slice(stream.id());
    key
}

/// The key of a row that belongs to no tenant.
pub(crate) fn cluster_wide(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = of_tenant(&TenantId::none());
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// The first key after this one.
pub(crate) fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use proptest::prelude::*;
    use schemas::{KeyId, PoolId};

    use super::*;

    fn stream() -> impl Strategy<Value = Stream> {
        ("[a-z0-9-]{1,32}", any::<bool>(), any::<[u8; 16]>()).prop_map(|(tenant, is_key, id)| {
            let tenant: TenantId = tenant.parse().unwrap();
            if is_key { Stream::key(tenant, KeyId::from_bytes(id)) } else { Stream::pool(tenant, PoolId::from_bytes(id)) }
        })
    }

    proptest! {
        #[test]
        fn byte_order_is_the_order_of_streams(a in stream(), b in stream()) {
            prop_assert_eq!(of_stream(&a).cmp(&of_stream(&b)), a.cmp(&b));
        }

        #[test]
        fn no_other_tenants_key_has_a_tenants_prefix(a in stream(), b in stream()) {
            prop_assert_eq!(of_stream(&a).starts_with(&of_tenant(b.tenant())), a.tenant() == b.tenant());
            prop_assert_eq!(tenant_of(&of_stream(&a)), Some(a.tenant().clone()));
            prop_assert_eq!(of_stream(&a) < past_tenant(b.tenant()), a.tenant() <= b.tenant());
        }
    }
}
