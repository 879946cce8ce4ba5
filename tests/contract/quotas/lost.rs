//! When a ledger takes the store for lost, and when for busy; and what it owes once the store is there again.

use super::*;

/// Forty keys at once, of which four are asked at a time, half a second each: those at the end of the queue are told to
/// come again. The store is there, so none is given a quota of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_for_the_store_is_no_lost_store() {
    let on = Fixture::postgres().await;
    on.tamper(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$; \
         CREATE TRIGGER slowly BEFORE INSERT ON quota_usage FOR EACH ROW EXECUTE FUNCTION slowly()",
    )
    .await;
    let gateways = Gateways::of(&on, quota(Unit::Requests, 10), 1);
    let clients = (0..40).map(|number| {
        let ledger = Arc::clone(&gateways.ledgers[0]);
        tokio::spawn(async move { request(&ledger, &CounterKey::Subject(number)).await })
    });
    let answers = join_all(clients.collect::<Vec<_>>()).await;
    let count = answers.into_iter().filter(|answer| *answer.as_ref().unwrap()).count();
    assert!((1..40).contains(&count), "{count}");
    assert!(gateways.lost.lock().unwrap().is_empty(), "it always answered in time");
}

/// A question that waits for its turn for longer than the store may take to answer, and its ledger does not count alone.
async fn is_busy_and_not_lost(gateways: &Gateways) {
    // Told to come again after a second: by then a question that was being asked would have lost the store.
    assert!(matches!(reserve(&gateways.ledgers[0], &KEY, 1).await.outcome, Outcome::Busy));
    assert!(gateways.lost.lock().unwrap().is_empty(), "nobody has asked it yet");
}

/// The same once it has its turn.
async fn is_answered(gateways: &Gateways) {
    let answered = async { while !request(&gateways.ledgers[0], &KEY).await {} };
    tokio::time::timeout(PATIENT, answered).await.expect("it has its turn");
    assert!(gateways.lost.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_the_one_writer_of_sqlite_is_no_lost_store() {
    let on = Fixture::sqlite().await;
    let gateways = Gateways::of(&on, quota(Unit::Requests, 10), 1);
    let Engine::Sqlite { path } = &on.settings.engine else { panic!("on SQLite") };
    let mut rival = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut rival).await.unwrap();
    is_busy_and_not_lost(&gateways).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut rival).await.unwrap();
    is_answered(&gateways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_connection_while_all_are_in_use_is_no_lost_store() {
    let mut settings = postgres_settings(cluster().create_database().url);
    settings.pool = 1;
    let on = Fixture::of(settings).await;
    let (_, session) = on.registered("ann@example.org").await;
    let gateways = Gateways::of(&on, quota(Unit::Requests, 10), 1);
    let mut rival = on.rival().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE sessions").execute(&mut rival).await.unwrap();
    let store = on.store.clone();
    let other = tokio::spawn(async move { store.session(session).await.unwrap().is_some() });
    on.somebody_waits().await;
    is_busy_and_not_lost(&gateways).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut rival).await.unwrap();
    assert!(other.await.unwrap());
    is_answered(&gateways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_is_asked_and_not_answered_loses_the_store() {
    let on = Fixture::postgres().await;
    let gateways = Gateways::of(&on, quota(Unit::Requests, 10), 1);
    let mut rival = on.rival().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE quota_usage").execute(&mut rival).await.unwrap();
    assert!(matches!(reserve(&gateways.ledgers[0], &KEY, 1).await.outcome, Outcome::Alone(_)));
    assert_eq!(*gateways.lost.lock().unwrap(), [true]);
    sqlx::raw_sql("ROLLBACK").execute(&mut rival).await.unwrap();
}

/// Counts alone while the store is gone, and tells it afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_lost_each_counts_alone_and_owes_it() {
    let mut cluster = Cluster::private();
    let mut settings = postgres_settings(cluster.create_database().url);
    settings.timeout = Duration::from_millis(500);
    let store = sql::open(&settings).await.unwrap();
    let (clock, quota) = (Arc::new(Hand(AtomicU64::new(0))), Arc::new(quota(Unit::Requests, 10)));
    let lost = Arc::<Mutex<Vec<bool>>>::default();
    let told = Arc::clone(&lost);
    let told = Box::new(move |lost| told.lock().unwrap().push(lost));
    let book = Arc::new(Book::new(store.clone(), Arc::<Hand>::clone(&clock), told));
    let ledger = Arc::new(Ledger::new(&quota, &book, 100));
    for _ in 0..4 {
        assert!(request(&ledger, &KEY).await);
    }
    cluster.stop();
    // Six are left by all that is known here; a key that was never seen has them all.
    for (key, many) in [(KEY, 6), (CounterKey::Subject(8), 10)] {
        for _ in 0..many {
            match reserve(&ledger, &key, 1).await.outcome {
                Outcome::Alone(reservation) => reservation.settle(1),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(reserve(&ledger, &key, 1).await.outcome, Outcome::Refused));
    }
    assert_eq!(*lost.lock().unwrap(), [true], "told once");
    book.look().await;
    assert!(book.is_lost());
    // A reload replaces the ledger now, and another its next one before anybody has looked at that.
    for ledger in [&ledger, &Arc::new(Ledger::new(&quota, &book, 100))] {
        book.enrol(Arc::clone(ledger));
    }
    let keys = [KEY, CounterKey::Subject(8)];
    book.dismiss(|_| false).await;
    assert_eq!(book.enrolled(), 1, "one owes");
    let left = Arc::downgrade(&ledger);
    drop(ledger);
    book.dismiss(|_| false).await;
    assert_eq!(book.enrolled(), 1, "it still does");
    cluster.start();
    book.look().await;
    // A question that has just ended may hold it for a moment more: it is looked at again, as the gateway does.
    let forgotten = async {
        while book.enrolled() + left.strong_count() > 0 {
            book.dismiss(|_| false).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT, forgotten).await.expect("it owes nothing any more and is forgotten");
    let ledger = Arc::new(Ledger::new(&quota, &book, 100));
    assert_eq!(*lost.lock().unwrap(), [true, false]);
    for key in keys {
        let usage = store.quota_usage(None, Some(hashed(&key)), NOW, 10).await.unwrap();
        assert_eq!(usage[0].used, 10);
        assert!(matches!(reserve(&ledger, &key, 1).await.outcome, Outcome::Refused));
    }
}
