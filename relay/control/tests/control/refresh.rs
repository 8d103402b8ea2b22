//! Grants are refreshed once, whoever crashes: a provider whose refresh tokens are good once says so.

mod account;
mod chaos;
mod fake_provider;
mod process;

use std::sync::Arc;
use std::time::Duration;

use control::refresh::RefreshTimes;
use schemas::credential::grant::{GrantCommand, LoginReason, Refresh};
use schemas::{Timestamp, WriterId};
use tempfile::TempDir;
use vault::{GrantSecret, Lifetime, RootKey};

use crate::shaky::Turn;
use crate::world::{Node, World};
use account::Account;
use fake_provider::{FakeProvider, Step};
use process::Process;

/// How much faster the records' time goes here: a token of ten minutes ends after six seconds.
const PACE: u64 = 100;
/// Seconds of the records' time that an access token lives.
const LIFE_SECONDS: u64 = 600;

fn fast_clock() -> control::Clock {
    let (begin, real) = (crate::world::clock()(), std::time::Instant::now());
    Arc::new(move || {
        let micros = u64::try_from(real.elapsed().as_micros()).unwrap_or(u64::MAX);
        Timestamp::from_micros(begin.as_micros() + micros * PACE)
    })
}

fn times() -> RefreshTimes {
    RefreshTimes {
        send_within: Duration::from_millis(500),
        exchange_max: Duration::from_secs(1),
        takeover_after: Duration::from_secs(3),
        look_interval: Duration::from_millis(10),
        record_again: Duration::from_millis(20),
    }
}

/// A world whose time goes fast, with a node and a provider.
struct Scene {
    world: World,
    root: RootKey,
    node: Node,
    data: TempDir,
    provider: Arc<FakeProvider>,
}

impl Scene {
    async fn new() -> Self {
        let (world, root) = (World { clock: Some(fast_clock()), ..World::default() }, RootKey::generate().unwrap());
        let (node, data) = world.node(&root).await;
        Self { world, root, node, data, provider: Arc::default() }
    }

    fn clock(&self) -> control::Clock {
        self.world.clock.clone().unwrap()
    }

    fn process(&self) -> Process {
        self.process_with(times())
    }

    fn process_with(&self, times: RefreshTimes) -> Process {
        Process::start(&self.node, self.data.path(), self.clock(), self.provider.clone(), times)
    }

    /// An account whose token ends after so many seconds of the records' time.
    async fn account(&self, name: &str, life_seconds: u64) -> Account {
        Account::add(&self.node, &self.provider, name, self.clock()().plus_seconds(life_seconds)).await
    }

    /// A claim of a node that will not be heard of again.
    async fn claim_of_a_dead_node(&self, account: &Account, is_sent: bool) {
        let node = WriterId::from_bytes([0xdd; 16]);
        account.execute(&self.node, GrantCommand::ClaimRefresh { node, takes_over: None }).await;
        if is_sent {
            account.execute(&self.node, GrantCommand::MarkSent { generation: 1 }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_refreshed_ahead_of_its_end_and_not_before() {
    let scene = Scene::new().await;
    let account = scene.account("ada", LIFE_SECONDS).await;
    let _process = scene.process();
    let grant = account.grant_with(&scene.node, |grant| grant.generation == 1 && grant.refresh == Refresh::Idle).await;
    let asked_at = scene.provider.last_redeemed_at(&scene.clock());
    let (issued, end) = account.first_life(&scene.node).await;
    let part = |percent: u64| Timestamp::from_micros(issued.as_micros() + (end.as_micros() - issued.as_micros()) * percent / 100);
    assert!(part(75) <= asked_at && asked_at < end, "{issued} {asked_at} {end}");
    assert_eq!((scene.provider.redemptions(), grant.is_rotating), (1, Some(true)));
    assert_eq!(
        account.names(&scene.node).await,
        ["CredentialAdded", "CredentialAuthorized", "CredentialRefreshClaimed", "CredentialRefreshSent", "CredentialRefreshed"]
    );
    assert_eq!(account.secret(&scene.node).refresh_token, Some(scene.provider.current("ada")));
    assert_eq!(account.credential(&scene.node).secret_version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_node_dies_while_the_log_is_away_is_recorded_by_its_next_start() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    let log = scene.world.log.clone();
    scene.provider.after_redemption(move || log.leave());
    let process = scene.process();
    scene.provider.redeemed(1).await;
    process.answer_kept().await;
    process.kill().await;
    // The next process finds the file before it does anything else, and only waits for the log.
    let process = scene.process();
    scene.provider.after_redemption(|| {});
    scene.world.log.come_back();
    account.grant_with(&scene.node, |grant| grant.generation == 1 && grant.refresh == Refresh::Idle).await;
    assert_eq!(account.secret(&scene.node).refresh_token, Some(scene.provider.current("ada")));
    assert_eq!(scene.provider.second_redemptions(), 0);
    process.nothing_kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_dead_node_had_sealed_is_recorded_by_another() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.claim_of_a_dead_node(&account, true).await;
    let credential = account.credential(&scene.node);
    let answer = account.answer(&scene.provider, 1);
    // The number in between is somebody else's.
    for (version, secret) in [(2, GrantSecret::default()), (3, answer.clone())] {
        let sealed = scene.node.vault.seal(&Account::address(&credential, version), &secret.to_bytes(), Lifetime::lasting(scene.clock()()));
        assert_eq!(sealed.unwrap(), vault::Sealing::Sealed);
    }
    let before = scene.provider.redemptions();
    let _process = scene.process();
    account.grant_with(&scene.node, |grant| grant.refresh == Refresh::Idle).await;
    assert_eq!(account.secret(&scene.node).access_token, answer.access_token);
    assert_eq!((scene.provider.redemptions(), scene.provider.second_redemptions()), (before, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_before_its_token_goes_out_tries_again_at_its_next_start() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.provider.next([Step::ConnectsAfter(Duration::from_secs(60))]);
    let process =
        scene.process_with(RefreshTimes { exchange_max: Duration::from_secs(90), send_within: Duration::from_secs(90), ..times() });
    account.grant_with(&scene.node, |grant| matches!(grant.refresh, Refresh::Claimed { is_sent: true, .. })).await;
    process.kill().await;
    let _process = scene.process();
    account.grant_with(&scene.node, |grant| grant.generation == 2 && grant.refresh == Refresh::Idle).await;
    assert_eq!((scene.provider.redemptions(), scene.provider.second_redemptions()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_had_sent_is_never_sent_again() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.claim_of_a_dead_node(&account, true).await;
    let began = std::time::Instant::now();
    let _process = scene.process();
    let lost = |reason| matches!(reason, Refresh::LoginRequired { reason: LoginReason::OutcomeUnknown, .. });
    account.grant_with(&scene.node, |grant| lost(grant.refresh)).await;
    assert!(began.elapsed() >= times().takeover_after, "{:?}", began.elapsed());
    assert_eq!(scene.provider.redemptions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_a_dead_node_never_used_is_taken_over_after_its_time() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.claim_of_a_dead_node(&account, false).await;
    let began = std::time::Instant::now();
    let _process = scene.process();
    account.grant_with(&scene.node, |grant| grant.generation == 2 && grant.refresh == Refresh::Idle).await;
    assert!(began.elapsed() >= times().takeover_after, "{:?}", began.elapsed());
    assert_eq!((scene.provider.redemptions(), scene.provider.second_redemptions()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_late_to_send_does_not_send() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.provider.next([Step::ConnectsAfter(times().send_within * 2)]);
    let process = scene.process_with(RefreshTimes { exchange_max: Duration::from_secs(10), ..times() });
    account.grant_with(&scene.node, |grant| grant.failures == 1).await;
    assert_eq!(scene.provider.redemptions(), 0);
    account.grant_with(&scene.node, |grant| grant.generation == 2 && grant.refresh == Refresh::Idle).await;
    process.kill().await;
    assert_eq!((scene.provider.redemptions(), scene.provider.second_redemptions()), (1, 0));
}

/// The one way left: the holder is suspended after it last looked at its clock, and its write goes out when it has long been cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_between_the_check_and_the_write_is_a_second_redemption() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.provider.next([Step::SendsAfter(times().exchange_max + Duration::from_millis(200))]);
    let _process = scene.process();
    let refused = |reason| matches!(reason, Refresh::LoginRequired { reason: LoginReason::InvalidGrant, .. });
    account.grant_with(&scene.node, |grant| refused(grant.refresh)).await;
    assert_eq!(scene.provider.second_redemptions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn network_errors_are_tried_again_and_a_refused_token_never() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.provider.next([Step::Unreachable, Step::Unreachable, Step::RateLimited]);
    let process = scene.process();
    account.grant_with(&scene.node, |grant| grant.issued_at > grant.authorized_at).await;
    assert_eq!((account.grant(&scene.node).failures, scene.provider.redemptions()), (0, 1));
    scene.provider.revoke("ada");
    account.grant_with(&scene.node, |grant| matches!(grant.refresh, Refresh::LoginRequired { .. })).await;
    let asked = scene.provider.asked();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.provider.asked(), asked);
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_an_upstream_asked_for_comes_before_its_time() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 30 * 86_400).await;
    let _process = scene.process();
    // A token that is new is not helped by another: the first ask is not recorded.
    account.execute(&scene.node, GrantCommand::AskRefresh { secret_version: 1 }).await;
    assert_eq!(account.grant(&scene.node).refresh, Refresh::Idle);
    tokio::time::sleep(Duration::from_millis(schemas::credential::grant::ASK_AGE_SECONDS * 1000 / PACE + 100)).await;
    account.execute(&scene.node, GrantCommand::AskRefresh { secret_version: 1 }).await;
    account.grant_with(&scene.node, |grant| grant.generation == 1 && grant.refresh == Refresh::Idle).await;
    assert_eq!(scene.provider.redemptions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_without_an_outcome_send_nothing_twice() {
    let scene = Scene::new().await;
    let account = scene.account("ada", 1).await;
    scene.world.log.next_appends([Turn::KeptAndUnknown, Turn::KeptAndUnknown, Turn::KeptAndUnknown]);
    let _process = scene.process();
    account.grant_with(&scene.node, |grant| grant.issued_at > grant.authorized_at).await;
    assert_eq!((scene.provider.redemptions(), scene.provider.second_redemptions()), (1, 0));
}
