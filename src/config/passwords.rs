//! `passwords:` rules for new passwords (NIST SP 800-63B-4) and the cost of hashing them (argon2id, RFC 9106).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    checks::{Checks, values},
    item::{At, Item},
    settings::{Compat, Passwords},
    units::{Auto, Int, Size},
    words::Text,
};
use crate::policy::password::PasswordRules;

/// Rules for passwords and the cost of hashing them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Passwords")]
pub(super) struct RawPasswords {
    /// Fewest characters. NIST asks for 15 where the password is the only factor; 8 is the floor, and the default with
    /// `portal.compat: fastapi`.
    min_length: Item<Int<8, 64>>,
    /// Most characters. Bounds the work a stranger can ask for.
    max_length: Item<Int<64, 1_024>>,
    /// Refuse common passwords and ones built around the user's name, e-mail or `context_words`. Off by default with
    /// `portal.compat: fastapi`.
    blocklist: Item<bool>,
    /// Words a password may not be built around: product and company names.
    context_words: Item<Vec<Item<Text>>>,
    /// Cost of one hash. A stored hash with less memory or fewer passes is made anew at its owner's next login; one with
    /// more stays. Each step up slows an attacker with a stolen database and every login alike.
    argon2: Item<RawArgon2>,
    /// Threads that hash, at low priority; auto: half the cores. More logins at once, less CPU for proxying.
    hash_threads: Item<Auto<1, 256>>,
    /// Logins that may wait for a hashing thread; more are answered 503 with Retry-After.
    hash_queue: Item<Int<1, 100_000>>,
    /// Of these, logins of one address (IPv4 /32, IPv6 /64); auto: an eighth. Addresses take turns, and the last quarter of
    /// the queue is for those that have nothing waiting: one address's storm holds up no other's login.
    hash_queue_per_address: Item<Auto<1, 100_000>>,
}

/// argon2id's parameters.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Argon2")]
pub(super) struct RawArgon2 {
    /// Memory of one hash. 19MiB is the floor (OWASP). Hashing uses this much for each hash thread.
    memory: Item<Size<{ 19 << 20 }, { 1 << 30 }>>,
    /// Passes over the memory.
    iterations: Item<Int<2, 64>>,
    /// Lanes of one hash.
    lanes: Item<Int<1, 16>>,
}

impl Default for RawPasswords {
    fn default() -> Self {
        Self {
            min_length: Item::of(Int(15)),
            max_length: Item::of(Int(128)),
            blocklist: Item::of(true),
            context_words: Item::default(),
            argon2: Item::default(),
            hash_threads: Item::default(),
            hash_queue: Item::of(Int(256)),
            hash_queue_per_address: Item::default(),
        }
    }
}

impl Default for RawArgon2 {
    fn default() -> Self {
        Self { memory: Item::of(Size(19 << 20)), iterations: Item::of(Int(2)), lanes: Item::of(Int(1)) }
    }
}

pub(super) fn check(item: Item<RawPasswords>, compat: Compat, checks: &mut Checks) -> Option<Passwords> {
    let at = item.at.or(&At::root(), "passwords");
    let mut raw = item.value?;
    if compat == Compat::FastApi {
        raw.min_length = raw.min_length.or_default(Int(8));
        raw.blocklist = raw.blocklist.or_default(false);
    }
    let argon2_at = raw.argon2.at.or(&at, "argon2");
    if let Some(argon2) = &raw.argon2.value
        && let (Some(memory), Some(lanes)) = (&argon2.memory.value, &argon2.lanes.value)
        && memory.0 < lanes.0.saturating_mul(8 << 10)
    {
        checks.error(&argon2.lanes.at.or(&argon2_at, "lanes"), "argon2 needs 8KiB of memory for each lane");
    }
    checks.no_repeats(raw.context_words.value.as_deref().unwrap_or_default());
    let rules = PasswordRules {
        min_chars: raw.min_length.value?.get()?,
        max_chars: raw.max_length.value?.get()?,
        blocklist: raw.blocklist.value?,
        context_words: values(raw.context_words.value?)?.into_iter().map(|word| word.0).collect(),
    };
    let hash_queue: usize = raw.hash_queue.value?.get()?;
    let per_address_at = raw.hash_queue_per_address.at.or(&at, "hash_queue_per_address");
    let hash_queue_per_address = match raw.hash_queue_per_address.value?.0 {
        Some(places) => usize::try_from(places).ok()?,
        None => (hash_queue / 8).max(1),
    };
    if hash_queue_per_address > hash_queue {
        checks.error(&per_address_at, "more than hash_queue, of which it is a share");
    }
    let argon2 = raw.argon2.value?;
    let hash_threads = match raw.hash_threads.value?.0 {
        Some(threads) => usize::try_from(threads).ok()?,
        None => (std::thread::available_parallelism().map_or(1, std::num::NonZero::get) / 2).max(1),
    };
    Some(Passwords {
        rules,
        argon2_memory_kib: u32::try_from(argon2.memory.value?.0 >> 10).ok()?,
        argon2_iterations: argon2.iterations.value?.get()?,
        argon2_lanes: argon2.lanes.value?.get()?,
        hash_threads,
        hash_queue,
        hash_queue_per_address,
    })
}
