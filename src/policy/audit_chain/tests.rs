//! What an attacker with the database's rights may try, and what it is called.

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::policy::master_key::MASTER_KEY_LEN;

fn key(byte: u8) -> SealingKey {
    SealingKey::of(&MasterKey::new(&mut [byte; MASTER_KEY_LEN]))
}

fn row(number: u64) -> ChainRow {
    let payload = Payload {
        user: Some(vec![7; 16]),
        address: Some(format!("192.0.2.{number}")),
        request_id: Some(format!("req-{number}")),
        ..Payload::default()
    };
    let salt = vec![u8::try_from(number % 256).unwrap(); SALT_LEN];
    ChainRow {
        position: number,
        fixed: Fixed {
            seq: number * 2,
            at: Timestamp::from_seconds(i64::try_from(number).unwrap()),
            event: "login_succeeded".into(),
            outcome: Some("succeeded".into()),
        },
        digest: payload.digest(&salt).to_vec(),
        payload,
        salt: Some(salt),
        head: Vec::new(),
        erased: false,
    }
}

/// Gives each row its place and head, and each batch its seal.
fn chain(rows: &mut [ChainRow], batch: usize, key: &SealingKey) -> Vec<Seal> {
    let (mut before, mut seals) = (GENESIS, Vec::new());
    let mut position = 0;
    for batch in rows.chunks_mut(batch) {
        let first = position + 1;
        for row in batch {
            position += 1;
            row.position = position;
            before = head(&before, position, &row.fixed, &row.digest);
            row.head = before.to_vec();
        }
        seals.push(key.seal(first, position, Timestamp::from_seconds(9), &before));
    }
    seals
}

fn verify(rows: &[ChainRow], seals: &[Seal], key: &SealingKey) -> Result<u64, Broken> {
    let (mut verifier, mut seals) = (Verifier::new(key), seals.iter());
    for row in rows {
        if verifier.wants_seal()
            && let Some(seal) = seals.next()
        {
            verifier.seal(seal.clone())?;
        }
        verifier.row(row)?;
    }
    // A seal whose rows are all gone.
    if verifier.wants_seal()
        && let Some(seal) = seals.next()
    {
        verifier.seal(seal.clone())?;
    }
    verifier.finish()?;
    Ok(verifier.verified())
}

fn chained(count: u64, batch: usize) -> (Vec<ChainRow>, Vec<Seal>) {
    let mut rows: Vec<_> = (1..=count).map(row).collect();
    let seals = chain(&mut rows, batch, &key(1));
    (rows, seals)
}

#[test]
fn an_erased_row_still_fits_and_one_that_only_lost_its_payload_does_not() {
    let (mut rows, seals) = chained(5, 2);
    rows[2] = ChainRow { payload: Payload::default(), salt: None, erased: true, ..rows[2].clone() };
    assert_eq!(verify(&rows, &seals, &key(1)), Ok(5));
    rows[3].payload = Payload::default();
    assert_eq!(verify(&rows, &seals, &key(1)).unwrap_err().why, Why::Payload);
    rows[3].salt = None;
    assert_eq!(verify(&rows, &seals, &key(1)).unwrap_err().why, Why::Gone);
    rows[2].payload.address = Some("203.0.113.9".into());
    let broken = verify(&rows, &seals, &key(1)).unwrap_err();
    assert_eq!((broken.position, broken.why), (3, Why::Gone), "an erased row that names somebody again");
}

#[test]
fn members_of_a_payload_do_not_run_into_each_other() {
    let with = |actor: Option<&str>, address: Option<&str>| Payload {
        actor: actor.map(Into::into),
        address: address.map(Into::into),
        ..Payload::default()
    };
    let payloads = [with(None, None), with(Some(""), None), with(None, Some("")), with(Some("a"), None)];
    for (at, one) in payloads.iter().enumerate() {
        for other in &payloads[at + 1..] {
            assert_ne!(one.digest(b"salt"), other.digest(b"salt"));
        }
        assert_ne!(one.digest(b"salt"), one.digest(b"salu"));
    }
}

#[test]
fn seals_of_another_key_are_told_as_such() {
    let (rows, seals) = chained(3, 2);
    let broken = verify(&rows, &seals, &key(2)).unwrap_err();
    assert!(matches!(broken.why, Why::Key { last: 2, .. }), "{broken}");
    let (mut rows, _) = chained(3, 2);
    let mut seals = chain(&mut rows, 2, &key(2));
    for seal in &mut seals {
        seal.kid = key(1).kid();
    }
    assert_eq!(verify(&rows, &seals, &key(1)).unwrap_err().why, Why::Signature(2), "whatever the seal says");
}

#[test]
fn a_missing_or_narrowed_seal_is_named_by_its_first_row() {
    let (rows, mut seals) = chained(6, 2);
    let removed = seals.remove(1);
    assert_eq!(verify(&rows, &seals, &key(1)).unwrap_err(), Broken { position: 3, seq: None, why: Why::Unsealed });
    seals.insert(1, Seal { first: 4, ..removed });
    assert_eq!(verify(&rows, &seals, &key(1)).unwrap_err().position, 3);
}

/// What an attacker does to one row.
#[derive(Debug, Clone, Copy)]
enum Tampering {
    Time,
    Event,
    Outcome,
    NoOutcome,
    Seq,
    Address,
    User,
    Salt,
    Digest,
    Head,
    Remove,
    RemoveAndCloseTheGap,
    InsertBefore,
    SwapWithNext,
    SwapContents,
}

fn tampering() -> impl Strategy<Value = Tampering> {
    use Tampering::{
        Address, Digest, Event, Head, InsertBefore, NoOutcome, Outcome, Remove, RemoveAndCloseTheGap, Salt, Seq,
        SwapContents, SwapWithNext, Time, User,
    };
    proptest::sample::select(vec![
        Time,
        Event,
        Outcome,
        NoOutcome,
        Seq,
        Address,
        User,
        Salt,
        Digest,
        Head,
        Remove,
        RemoveAndCloseTheGap,
        InsertBefore,
        SwapWithNext,
        SwapContents,
    ])
}

fn tamper(rows: &mut Vec<ChainRow>, at: usize, how: Tampering) {
    let renumber = |rows: &mut Vec<ChainRow>| (1..).zip(rows).for_each(|(position, row)| row.position = position);
    match how {
        Tampering::Time => rows[at].fixed.at = Timestamp::from_seconds(-1),
        Tampering::Event => rows[at].fixed.event.push('x'),
        Tampering::Outcome => rows[at].fixed.outcome = Some("failed".into()),
        Tampering::NoOutcome => rows[at].fixed.outcome = None,
        Tampering::Seq => rows[at].fixed.seq += 1,
        Tampering::Address => rows[at].payload.address = Some("203.0.113.66".into()),
        Tampering::User => rows[at].payload.user = None,
        Tampering::Salt => rows[at].salt = Some(vec![0xee; SALT_LEN]),
        Tampering::Digest => rows[at].digest[0] ^= 1,
        Tampering::Head => rows[at].head[31] ^= 1,
        Tampering::Remove => drop(rows.remove(at)),
        Tampering::RemoveAndCloseTheGap => {
            rows.remove(at);
            renumber(rows);
        }
        Tampering::InsertBefore => {
            rows.insert(at, row(999));
            renumber(rows);
        }
        Tampering::SwapWithNext => {
            rows.swap(at, at + 1);
            renumber(rows);
        }
        Tampering::SwapContents => {
            let (one, other) = (rows[at].payload.clone(), rows[at + 1].payload.clone());
            (rows[at].payload, rows[at + 1].payload) = (other, one);
        }
    }
}

proptest! {
    #[test]
    fn an_untouched_chain_verifies(count in 0_u64..40, batch in 1_usize..9) {
        let (rows, seals) = chained(count, batch);
        prop_assert_eq!(verify(&rows, &seals, &key(1)), Ok(count));
    }

    #[test]
    fn whatever_is_done_to_a_row_is_found_and_the_first_broken_row_is_named(
        count in 2_u64..40, batch in 1_usize..9, at: Index, how in tampering(),
    ) {
        let (mut rows, seals) = chained(count, batch);
        let at = at.index(rows.len() - 1);
        tamper(&mut rows, at, how);
        let broken = verify(&rows, &seals, &key(1)).unwrap_err();
        prop_assert_eq!(broken.position, u64::try_from(at).unwrap() + 1, "{}", broken);
    }

    #[test]
    fn a_row_changed_and_all_heads_after_it_made_anew_is_found_in_its_batch(
        count in 1_u64..40, batch in 1_usize..9, at: Index, how in tampering(),
    ) {
        let (mut rows, seals) = chained(count + 1, batch);
        let at = at.index(rows.len() - 1);
        tamper(&mut rows, at, how);
        for row in &mut rows {
            if let Some(salt) = &row.salt {
                row.digest = row.payload.digest(salt).to_vec();
            }
        }
        chain(&mut rows, batch, &key(2));
        // A digest or head that was changed alone is then as it was.
        prop_assume!(!matches!(how, Tampering::Digest | Tampering::Head));
        let broken = verify(&rows, &seals, &key(1)).unwrap_err();
        let first = (at / batch * batch) as u64 + 1;
        let last = (first + batch as u64 - 1).min(count + 1);
        prop_assert!((first..=last + 1).contains(&broken.position), "{} not in {}..={}", broken, first, last);
    }

    #[test]
    fn rows_cut_off_the_end_are_missed_while_their_seal_is_there(
        count in 1_u64..40, batch in 1_usize..9, left: Index,
    ) {
        let (mut rows, seals) = chained(count, batch);
        let left = left.index(rows.len());
        rows.truncate(left);
        let broken = verify(&rows, &seals, &key(1)).unwrap_err();
        prop_assert_eq!((broken.position, broken.why), (left as u64 + 1, Why::Missing));
    }
}
