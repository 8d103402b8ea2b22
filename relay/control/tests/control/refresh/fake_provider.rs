//! A provider whose refresh tokens are good once. A second use of one revokes all that came from the same login.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use control::refresh::{GrantProvider, Renewal, RenewalError};
use schemas::Timestamp;
use vault::GrantSecret;
use zeroize::Zeroizing;

use super::LIFE_SECONDS;

/// How one exchange goes; by default it is answered within milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// The connection takes this long, before the last look at the clock.
    ConnectsAfter(Duration),
    /// The process is suspended for this long between that look and the write.
    SendsAfter(Duration),
    Unreachable,
    RateLimited,
}

#[derive(Default)]
pub(super) struct FakeProvider {
    accounts: Arc<Mutex<HashMap<String, Login>>>,
    steps: Mutex<VecDeque<Step>>,
    hook: Mutex<Option<Box<dyn Fn() + Send>>>,
    counts: Arc<Counts>,
    redeemed_at: Arc<Mutex<Option<Instant>>>,
}

/// What came of one login.
#[derive(Default)]
struct Login {
    serial: u64,
    is_revoked: bool,
}

#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    redemptions: AtomicU64,
    second: AtomicU64,
    /// Answers that nobody was there to take any more.
    lost: AtomicU64,
}

/// Counts an answer as lost unless it arrives.
struct Answer(Arc<Counts>, bool);

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.1 {
            self.0.lost.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn refresh_token(account: &str, serial: u64) -> String {
    format!("rt-{account}-{serial}")
}

/// The next serial of the account, or none where the token is not good.
fn redeem(accounts: &Mutex<HashMap<String, Login>>, counts: &Counts, token: &str) -> Option<(String, u64)> {
    let mut parts = token.rsplitn(2, '-');
    let serial: u64 = parts.next()?.parse().ok()?;
    let account = parts.next()?.strip_prefix("rt-")?.to_owned();
    let mut accounts = accounts.lock().unwrap();
    let login = accounts.get_mut(&account)?;
    if serial < login.serial {
        counts.second.fetch_add(1, Ordering::SeqCst);
        login.is_revoked = true;
    }
    if login.is_revoked || serial != login.serial {
        return None;
    }
    counts.redemptions.fetch_add(1, Ordering::SeqCst);
    login.serial += 1;
    Some((account, login.serial))
}

impl FakeProvider {
    /// A new login; gives its refresh token.
    pub(super) fn log_in(&self, account: &str) -> String {
        self.accounts.lock().unwrap().insert(account.to_owned(), Login::default());
        refresh_token(account, 0)
    }

    pub(super) fn revoke(&self, account: &str) {
        self.accounts.lock().unwrap().get_mut(account).unwrap().is_revoked = true;
    }

    /// The refresh token that is good now.
    pub(super) fn current(&self, account: &str) -> String {
        refresh_token(account, self.accounts.lock().unwrap()[account].serial)
    }

    pub(super) fn next(&self, steps: impl IntoIterator<Item = Step>) {
        self.steps.lock().unwrap().extend(steps);
    }

    /// Done right after each redemption, before the answer is on its way.
    pub(super) fn after_redemption(&self, hook: impl Fn() + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    pub(super) fn redemptions(&self) -> u64 {
        self.counts.redemptions.load(Ordering::SeqCst)
    }

    pub(super) fn second_redemptions(&self) -> u64 {
        self.counts.second.load(Ordering::SeqCst)
    }

    pub(super) fn asked(&self) -> u64 {
        self.counts.asked.load(Ordering::SeqCst)
    }

    pub(super) fn lost_answers(&self) -> u64 {
        self.counts.lost.load(Ordering::SeqCst)
    }

    /// Waits until so many tokens were redeemed.
    pub(super) async fn redeemed(&self, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.redemptions() < count {
            assert!(Instant::now() < deadline, "{} of {count} redemptions", self.redemptions());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// When a token was last redeemed, by this clock.
    pub(super) fn last_redeemed_at(&self, clock: &control::Clock) -> Timestamp {
        let ago = self.redeemed_at.lock().unwrap().unwrap().elapsed();
        Timestamp::from_micros(clock().as_micros() - ago.as_micros() as u64 * super::PACE)
    }

    /// What the provider gives for a refresh token, in one step.
    pub(super) fn redeem_now(&self, token: &str) -> Option<Renewal> {
        redeem(&self.accounts, &self.counts, token).map(|(account, serial)| renewal(&account, serial))
    }
}

fn renewal(account: &str, serial: u64) -> Renewal {
    Renewal {
        access_token: Zeroizing::new(format!("at-{account}-{serial}")),
        refresh_token: Some(Zeroizing::new(refresh_token(account, serial))),
        token_type: "Bearer".to_owned(),
        expires_in: Some(Duration::from_secs(LIFE_SECONDS)),
    }
}

#[async_trait]
impl GrantProvider for FakeProvider {
    async fn renew(
        &self,
        _provider: &str,
        grant: &GrantSecret,
        may_send: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Renewal, RenewalError> {
        let step = self.steps.lock().unwrap().pop_front();
        let connect = match step {
            Some(Step::ConnectsAfter(time)) => time,
            _ => Duration::from_millis(2),
        };
        tokio::time::sleep(connect).await;
        if !may_send() || matches!(step, Some(Step::Unreachable)) {
            return Err(RenewalError::NotSent("not sent".into()));
        }
        self.counts.asked.fetch_add(1, Ordering::SeqCst);
        let token = grant.refresh_token.clone().unwrap_or_default();
        if let Some(Step::SendsAfter(time)) = step {
            // What was handed to the machine goes out, whatever becomes of who did it.
            let (accounts, counts) = (self.accounts.clone(), self.counts.clone());
            std::thread::spawn(move || {
                std::thread::sleep(time);
                redeem(&accounts, &counts, &token)
            });
            return std::future::pending().await;
        }
        if matches!(step, Some(Step::RateLimited)) {
            return Err(RenewalError::RateLimited { retry_after: None });
        }
        let Some((account, serial)) = redeem(&self.accounts, &self.counts, &token) else { return Err(RenewalError::InvalidGrant) };
        let mut answer = Answer(self.counts.clone(), false);
        *self.redeemed_at.lock().unwrap() = Some(Instant::now());
        if let Some(hook) = self.hook.lock().unwrap().as_ref() {
            hook();
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
        answer.1 = true;
        Ok(renewal(&account, serial))
    }
}
