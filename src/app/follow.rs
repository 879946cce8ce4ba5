//! Follows the configuration's file: SIGHUP reads it at once, a change of it or of a file it includes soon after.
//!
//! A change is taken when the files have looked the same twice in a row: a file that is being written could be valid
//! half-way and lack its last routes. One that was found broken is read again now and then though it looks the same:
//! what stood in the way may have been none of its own (no descriptor left, a disk that stalled).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::{
    app::reload::Reloader,
    config::{self, Environment, watched::Stamps},
    telemetry::metrics::ReloadResult,
};

/// Between two looks at the files.
const EVERY: Duration = Duration::from_secs(1);

/// Looks between two tries of what is broken.
const TRY_AGAIN: u32 = 10;

/// A configuration file to be followed.
pub struct Follow {
    path: PathBuf,
    environment: Arc<dyn Environment + Send + Sync>,
    hangups: Signal,
}

impl Follow {
    /// Needs a tokio runtime around it. From here on SIGHUP no longer ends the process.
    pub fn new(path: &Path, environment: Arc<dyn Environment + Send + Sync>) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), environment, hangups: signal(SignalKind::hangup())? })
    }

    /// Until dropped. `files`: what the configuration in force was made of.
    pub(super) async fn run(mut self, reloader: Arc<Reloader>, mut files: Vec<PathBuf>) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settling = Settling::default();
        loop {
            let asked = tokio::select! {
                _ = every.tick() => false,
                _ = self.hangups.recv() => true,
            };
            if settling.look(stamps(&files).await, asked) {
                let broken;
                (files, broken) = self.reload(&reloader, asked).await;
                settling.found(broken);
            }
        }
    }

    /// Gives the files to follow from now on, and whether they are broken.
    async fn reload(&self, reloader: &Reloader, asked: bool) -> (Vec<PathBuf>, bool) {
        let (path, environment) = (self.path.clone(), Arc::clone(&self.environment));
        let read = spawn_blocking(move || config::load(&path, &*environment)).await;
        let Ok(read) = read else {
            // A reader that panicked has said so; the next change is another chance.
            return (vec![self.path.clone()], false);
        };
        let read_files = match &read {
            Ok(settings) => settings.written.files(),
            Err(errors) => errors.files().to_vec(),
        };
        let result = reloader.reload(read, asked).await;
        // A broken file may not name all it included, and what it did name may be what has to be mended.
        let mut files = [read_files, reloader.force.load().settings.written.files()].concat();
        files.sort();
        files.dedup();
        (files, result == ReloadResult::Broken)
    }
}

async fn stamps(files: &[PathBuf]) -> Arc<Stamps> {
    let files = files.to_vec();
    spawn_blocking(move || Arc::new(Stamps::of(files))).await.unwrap_or_default()
}

/// Whether what is looked at again and again has changed and stands still.
struct Settling<T> {
    seen: Option<T>,
    taken: Option<T>,
    /// Looks since what was taken turned out to be broken.
    broken_for: Option<u32>,
}

impl<T> Default for Settling<T> {
    fn default() -> Self {
        Self { seen: None, taken: None, broken_for: None }
    }
}

impl<T: PartialEq + Clone> Settling<T> {
    /// Whether to take what is there `now`. The first look takes nothing: what was read at the start may be older.
    fn look(&mut self, now: T, at_once: bool) -> bool {
        let stands = self.seen.as_ref() == Some(&now) && self.taken.as_ref() != Some(&now);
        let again = self.broken_for.as_mut().is_some_and(|looks| {
            *looks += 1;
            *looks >= TRY_AGAIN
        });
        let take = at_once || stands || again;
        if take {
            self.taken = Some(now.clone());
        }
        self.seen = Some(now);
        take
    }

    /// What came of what was taken.
    fn found(&mut self, broken: bool) {
        self.broken_for = broken.then_some(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(looks: &[(&str, bool)]) -> Vec<bool> {
        let mut settling = Settling::default();
        looks.iter().map(|(now, at_once)| settling.look((*now).to_owned(), *at_once)).collect()
    }

    #[test]
    fn a_change_is_taken_once_and_not_before_it_stands_still() {
        let looks = ["a", "a", "a", "half", "b", "b", "b", "a", "a"].map(|now| (now, false));
        assert_eq!(taken(&looks), [false, true, false, false, false, true, false, false, true]);
    }

    #[test]
    fn what_is_broken_is_tried_again_now_and_then_until_it_is_not() {
        let mut settling = Settling::default();
        let mut takes = |looks| (0..looks).filter(|_| settling.look("same", false)).count();
        assert_eq!(takes(2), 1);
        assert_eq!(takes(100), 0, "what is good is not read again");
        settling.found(true);
        let mut takes = |looks| (0..looks).filter(|_| settling.look("same", false)).count();
        assert_eq!(takes(TRY_AGAIN - 1), 0);
        assert_eq!(takes(1), 1);
        settling.found(true);
        let tried = (0..TRY_AGAIN).filter(|_| settling.look("same", false)).count();
        assert_eq!(tried, 1, "and again");
        settling.found(false);
        assert!((0..100).all(|_| !settling.look("same", false)));
    }

    #[test]
    fn who_asks_need_not_wait_and_is_not_told_twice() {
        assert_eq!(taken(&[("a", false), ("b", true), ("b", false), ("b", true)]), [false, true, false, true]);
    }
}
