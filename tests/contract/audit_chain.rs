//! The audit chain: every row gets one place in it, whoever seals; what was done to it behind the store's back shows.

use portcullis::{
    clock::SystemEntropy,
    policy::{
        audit_chain::{Broken, SealingKey, Verifier, Why},
        master_key::MasterKey,
    },
    store::{
        AuditEvent,
        audit::{Sealed, Sealing},
    },
};

use crate::{
    audit::full_row,
    fixture::{Fixture, NOW, entry, seconds, user_id},
};

on_both_engines! {
    rows_are_sealed_once_in_batches_and_the_chain_verifies,
    many_who_seal_at_once_make_one_chain_without_gaps,
    an_erased_row_is_still_in_the_chain_sealed_before_or_after,
    a_row_of_an_older_gateway_is_sealed_too,
    what_was_sealed_is_not_sealed_anew_nor_a_seal_changed,
    each_hand_in_the_table_is_found_and_its_row_named,
}

fn key() -> SealingKey {
    SealingKey::of(&MasterKey::new(&mut [7; 32]))
}

async fn seal(on: &Fixture, most: u32) -> Sealed {
    let sealing = Sealing { key: &key(), entropy: &SystemEntropy, at: NOW, most };
    on.store.seal_audit(&sealing).await.unwrap()
}

async fn rows(on: &Fixture, count: usize) {
    for _ in 0..count {
        full_row(on, user_id()).await;
    }
}

/// The last position, or what is broken first.
async fn verify(on: &Fixture) -> Result<u64, Broken> {
    let key = key();
    let mut verifier = Verifier::new(&key);
    let mut seals = on.store.audit_seals(0, 1_000).await.unwrap().into_iter();
    for row in on.store.audit_chain(0, 1_000).await.unwrap() {
        if verifier.wants_seal()
            && let Some(seal) = seals.next()
        {
            verifier.seal(seal)?;
        }
        verifier.row(&row)?;
    }
    if let Some(seal) = seals.next() {
        verifier.seal(seal)?;
    }
    verifier.finish().map(|()| verifier.verified())
}

async fn rows_are_sealed_once_in_batches_and_the_chain_verifies(on: Fixture) {
    assert_eq!(seal(&on, 10).await, Sealed::Here { rows: 0, last: 0 });
    assert_eq!(on.store.last_audit_seal().await.unwrap(), None);
    rows(&on, 7).await;
    assert_eq!(seal(&on, 3).await, Sealed::Here { rows: 3, last: 3 });
    assert_eq!(on.store.unsealed_audit(0, 10).await.unwrap().len(), 4);
    assert_eq!(verify(&on).await, Ok(3));
    assert_eq!(seal(&on, 100).await, Sealed::Here { rows: 4, last: 7 });
    assert_eq!(seal(&on, 100).await, Sealed::Here { rows: 0, last: 7 });
    assert_eq!(on.store.unsealed_audit(0, 10).await.unwrap(), []);
    assert_eq!(verify(&on).await, Ok(7));
    let seals = on.store.audit_seals(0, 10).await.unwrap();
    assert_eq!(seals.iter().map(|seal| (seal.first, seal.last)).collect::<Vec<_>>(), [(1, 3), (4, 7)]);
    assert_eq!(on.store.last_audit_seal().await.unwrap().as_ref(), seals.last());
    assert_eq!(on.store.audit_seals(3, 10).await.unwrap(), seals[1..]);
    let positions: Vec<_> = on.store.audit_chain(2, 3).await.unwrap().iter().map(|row| row.position).collect();
    assert_eq!(positions, [3, 4, 5]);
}

async fn many_who_seal_at_once_make_one_chain_without_gaps(on: Fixture) {
    let writers = (0..4).map(|_| {
        let store = on.store.clone();
        tokio::spawn(async move {
            for _ in 0..15 {
                store.append_audit(&entry(AuditEvent::LoginFailed, NOW)).await.unwrap();
            }
        })
    });
    let sealers = (0..4).map(|_| {
        let store = on.store.clone();
        tokio::spawn(async move {
            let mut sealed = 0;
            for _ in 0..20 {
                let sealing = Sealing { key: &key(), entropy: &SystemEntropy, at: NOW, most: 5 };
                if let Sealed::Here { rows, .. } = store.seal_audit(&sealing).await.unwrap() {
                    sealed += rows;
                }
            }
            sealed
        })
    });
    let (writers, sealers): (Vec<_>, Vec<_>) = (writers.collect(), sealers.collect());
    for writer in writers {
        writer.await.unwrap();
    }
    let mut sealed = 0;
    for sealer in sealers {
        sealed += sealer.await.unwrap();
    }
    let Sealed::Here { rows, last } = seal(&on, 1_000).await else { panic!("nobody else seals") };
    assert_eq!((sealed + rows, last), (60, 60));
    assert_eq!(verify(&on).await, Ok(60));
}

async fn an_erased_row_is_still_in_the_chain_sealed_before_or_after(on: Fixture) {
    let user = user_id();
    full_row(&on, user).await;
    rows(&on, 1).await;
    seal(&on, 10).await;
    full_row(&on, user).await;
    let told = entry(AuditEvent::AuditErased, NOW.plus(seconds(1)));
    assert_eq!(on.store.erase_audit_of(user, &told).await.unwrap(), 2);
    assert_eq!(verify(&on).await, Ok(2));
    seal(&on, 10).await;
    assert_eq!(verify(&on).await, Ok(4), "the erased one and the one that says so");
    let chain = on.store.audit_chain(0, 10).await.unwrap();
    assert_eq!(chain.iter().map(|row| row.erased).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!(chain[0].salt, None, "nothing is left to guess the payload by");
}

async fn a_row_of_an_older_gateway_is_sealed_too(on: Fixture) {
    on.registered("ann@example.com").await;
    on.tamper("INSERT INTO audit (at, event, address, request_id) SELECT created_at, 'refreshed', 'a', 'r' FROM users")
        .await;
    assert_eq!(seal(&on, 10).await, Sealed::Here { rows: 3, last: 3 });
    assert_eq!(verify(&on).await, Ok(3));
}

async fn what_was_sealed_is_not_sealed_anew_nor_a_seal_changed(on: Fixture) {
    rows(&on, 2).await;
    seal(&on, 10).await;
    for sql in [
        "UPDATE audit SET position = position + 10",
        "UPDATE audit SET position = NULL, digest = NULL, head = NULL, salt = NULL",
        "UPDATE audit SET salt = NULL",
        "UPDATE audit SET head = digest",
        "DELETE FROM audit WHERE position = 2",
        "UPDATE audit_seals SET signature = head",
        "DELETE FROM audit_seals",
    ] {
        let refused = on.tampered(sql).await.unwrap_err();
        assert!(refused.to_string().contains("only appended"), "{sql}: {refused}");
    }
    assert_eq!(verify(&on).await, Ok(2));
}

async fn each_hand_in_the_table_is_found_and_its_row_named(on: Fixture) {
    rows(&on, 8).await;
    seal(&on, 3).await;
    seal(&on, 3).await;
    seal(&on, 3).await;
    // From the end to the beginning: each is before the ones found until then.
    for (sql, position, why) in [
        ("UPDATE audit SET outcome = 'failed' WHERE position = 8", 8, Why::Chain),
        ("DELETE FROM audit WHERE position = 7", 7, Why::Missing),
        ("UPDATE audit SET user_id = NULL WHERE position = 6", 6, Why::Payload),
        ("UPDATE audit SET salt = NULL WHERE position = 5", 5, Why::Gone),
        ("DELETE FROM audit_seals WHERE first_position = 4", 4, Why::Unsealed),
        ("UPDATE audit SET event = 'logged_out' WHERE position = 3", 3, Why::Chain),
        ("UPDATE audit SET address = '203.0.113.66' WHERE position = 2", 2, Why::Payload),
    ] {
        on.tamper_with_audit(sql).await;
        let broken = verify(&on).await.unwrap_err();
        assert_eq!((broken.position, broken.why), (position, why), "{sql}");
    }
}

/// A row whose number is small may be committed late: it gets a place all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_committed_late_comes_later_in_the_chain() {
    let on = Fixture::postgres().await;
    let mut rival = on.rival().await;
    let insert = "BEGIN; INSERT INTO audit (at, event, address, request_id) VALUES (now(), 'refreshed', 'a', 'late')";
    sqlx::raw_sql(insert).execute(&mut rival).await.unwrap();
    rows(&on, 2).await;
    assert_eq!(seal(&on, 10).await, Sealed::Here { rows: 2, last: 2 });
    sqlx::raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    assert_eq!(seal(&on, 10).await, Sealed::Here { rows: 1, last: 3 });
    assert_eq!(verify(&on).await, Ok(3));
    let chain = on.store.audit_chain(0, 10).await.unwrap();
    assert!(chain[2].fixed.seq < chain[0].fixed.seq, "{chain:?}");
}

/// Who seals holds the lock for the length of the transaction; who comes meanwhile goes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_another_sealing_does_nothing() {
    let on = Fixture::postgres().await;
    rows(&on, 1).await;
    let mut rival = on.rival().await;
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(8101820098839667817)").execute(&mut rival).await.unwrap();
    assert_eq!(seal(&on, 10).await, Sealed::Elsewhere);
    sqlx::raw_sql("COMMIT").execute(&mut rival).await.unwrap();
    assert_eq!(seal(&on, 10).await, Sealed::Here { rows: 1, last: 1 });
}

/// Were a row erased after it was read for its digest and before that is written, its digest would be of what is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_waits_for_whoever_seals() {
    let on = Fixture::postgres().await;
    let user = user_id();
    full_row(&on, user).await;
    let mut sealer = on.rival().await;
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(8101820098839667817)").execute(&mut sealer).await.unwrap();
    let store = on.store.clone();
    let erasing = tokio::spawn(async move { store.erase_audit_of(user, &entry(AuditEvent::AuditErased, NOW)).await });
    tokio::time::timeout(seconds(30), on.somebody_waits()).await.expect("the erasure waits");
    sqlx::raw_sql("COMMIT").execute(&mut sealer).await.unwrap();
    assert_eq!(erasing.await.unwrap().unwrap(), 1);
    seal(&on, 10).await;
    assert_eq!(verify(&on).await, Ok(2));
}
