//! Looks four times a second how much memory there is left and how late it is itself, and says when requests are sent
//! away.
//!
//! Memory is the resident set (`/proc/self/statm`) against `overload.max_memory` or the lowest limit of the cgroups
//! around the process; [`crate::policy::memory`] reads the texts, [`crate::policy::overload`] judges. What cannot be
//! read is no reason to send anybody away. These files are the kernel's: reading them waits for no disk.

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use crate::{
    app::force::Force,
    clock::Clock,
    config::settings::MaxMemory,
    gate::admission::Load,
    policy::{
        memory::{limit, limit_files, resident_pages},
        overload::{Class, Pressure},
    },
    telemetry::metrics::{Metrics, ShedCause},
};

/// How often.
const EVERY: Duration = Duration::from_millis(250);

/// So many looks without a request sent away, and it is over: ten seconds.
const QUIET: u32 = 40;

/// What this process holds of memory, and what it may.
#[derive(Debug, Clone, Copy)]
struct Kernel<'a> {
    proc: &'a Path,
    cgroup: &'a Path,
}

impl Kernel<'_> {
    fn resident(self) -> Option<u64> {
        let statm = std::fs::read_to_string(self.proc.join("self/statm")).ok()?;
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        resident_pages(&statm)?.checked_mul(page)
    }

    fn limit(self) -> Option<u64> {
        let groups = std::fs::read_to_string(self.proc.join("self/cgroup")).ok()?;
        let read = |file: String| limit(&std::fs::read_to_string(self.cgroup.join(file)).ok()?);
        limit_files(&groups).into_iter().filter_map(read).min()
    }
}

/// Looks, for ever.
pub(super) async fn watch(load: Arc<Load>, force: Arc<ArcSwap<Force>>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) {
    let kernel = Kernel { proc: Path::new("/proc"), cgroup: Path::new("/sys/fs/cgroup") };
    let mut shedding = Shedding::default();
    loop {
        look(kernel, &load, force.load().settings.overload.max_memory, &metrics);
        shedding.note(sent_away(&metrics));
        let due = clock.tick().plus(EVERY);
        tokio::time::sleep(EVERY).await;
        metrics.runtime_lag.observe(clock.tick().since(due));
    }
}

fn look(kernel: Kernel<'_>, load: &Load, max: MaxMemory, metrics: &Metrics) {
    let limit = match max {
        MaxMemory::Cgroup => kernel.limit(),
        MaxMemory::Nothing => None,
        MaxMemory::Bytes(bytes) => Some(bytes),
    };
    let resident = kernel.resident();
    let gauge = |bytes: Option<u64>| i64::try_from(bytes.unwrap_or_default()).unwrap_or(i64::MAX);
    metrics.memory_resident.set(gauge(resident));
    metrics.memory_limit.set(gauge(limit));
    let before = load.pressure();
    let now = Pressure::of(resident.unwrap_or_default(), limit, before);
    if now != before {
        let (resident, limit) = (gauge(resident), gauge(limit));
        tracing::warn!(resident, limit, before = before.level(), now = now.level(), "memory pressure has changed");
        load.press(now);
    }
}

fn sent_away(metrics: &Metrics) -> u64 {
    Class::ALL.iter().map(|class| metrics.requests_shed.of(*class).of(ShedCause::Requests).get()).sum()
}

/// Says once that requests are sent away for want of places, and once that it is over: a line for each request would be
/// more of what there is too much of.
#[derive(Debug, Default)]
struct Shedding {
    sent_away: u64,
    since: u64,
    quiet: Option<u32>,
}

impl Shedding {
    fn note(&mut self, sent_away: u64) {
        let more = sent_away > self.sent_away;
        match &mut self.quiet {
            None if more => {
                self.quiet = Some(0);
                self.since = self.sent_away;
                tracing::warn!("requests are sent away: overload.max_in_flight is reached");
            }
            Some(quiet) if more => *quiet = 0,
            Some(quiet) if *quiet < QUIET => *quiet += 1,
            Some(_) => {
                self.quiet = None;
                tracing::warn!(requests = sent_away - self.since, "requests are no longer sent away");
            }
            None => {}
        }
        self.sent_away = sent_away;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A machine whose process holds `pages` pages.
    fn machine(pages: u64, cgroup: &str, limits: &[(&str, &str)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        fs::write(folder.path().join("proc/self/statm"), format!("9 {pages} 1 1 0 1 0\n")).unwrap();
        fs::write(folder.path().join("proc/self/cgroup"), cgroup).unwrap();
        for (file, text) in limits {
            let file = folder.path().join("cgroup").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        folder
    }

    fn looked_at(machine: &TempDir, max: MaxMemory) -> (Arc<Metrics>, u8) {
        let metrics = Arc::new(Metrics::new());
        let load = Load::new(10, Arc::clone(&metrics));
        let (proc, cgroup) = (machine.path().join("proc"), machine.path().join("cgroup"));
        look(Kernel { proc: &proc, cgroup: &cgroup }, &load, max, &metrics);
        let level = load.pressure().level();
        (metrics, level)
    }

    #[test]
    fn the_lowest_limit_around_the_process_counts() {
        let page = u64::try_from(rustix::param::page_size()).unwrap();
        let (low, high) = (format!("{}\n", 100 * page), format!("{}\n", 900 * page));
        let limits = [("a/b/memory.max", "max\n"), ("a/memory.max", &*low), ("memory.max", &*high)];
        let of = |pages| looked_at(&machine(pages, "0::/a/b\n", &limits), MaxMemory::Cgroup);
        let (metrics, level) = of(84);
        assert_eq!(
            (metrics.memory_resident.get(), metrics.memory_limit.get(), level),
            (i64::try_from(84 * page).unwrap(), i64::try_from(100 * page).unwrap(), 0)
        );
        assert_eq!([of(85).1, of(90).1, of(95).1, of(1_000).1], [1, 2, 3, 3]);
        assert_eq!(looked_at(&machine(1_000, "0::/a/b\n", &limits), MaxMemory::Nothing).1, 0);
        assert_eq!(looked_at(&machine(1_000, "0::/a/b\n", &limits), MaxMemory::Bytes(2_000 * page)).1, 0);
        assert_eq!(looked_at(&machine(1_000, "0::/a/b\n", &[]), MaxMemory::Bytes(1_000 * page)).1, 3);
    }

    #[test]
    fn what_cannot_be_read_sends_nobody_away() {
        let empty = TempDir::new().unwrap();
        assert_eq!(looked_at(&empty, MaxMemory::Cgroup).1, 0);
        assert_eq!(looked_at(&empty, MaxMemory::Bytes(1)).1, 0);
        assert_eq!(looked_at(&machine(1_000, "", &[("memory.max", "1\n")]), MaxMemory::Cgroup).1, 0);
    }

    #[test]
    fn this_machine_tells_how_much_this_process_holds() {
        let kernel = Kernel { proc: Path::new("/proc"), cgroup: Path::new("/sys/fs/cgroup") };
        assert!(kernel.resident().unwrap() > 1 << 20);
    }
}
