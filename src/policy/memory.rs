//! What the Linux kernel says of memory: how much this process holds, and how much it may (`proc(5)`, cgroup v1 and
//! v2).
//!
//! Only the texts are read here; which files they come from is `app/pressure.rs`'s to know.

/// A cgroup v1 limit from here on means none: the kernel rounds the largest number down to whole pages.
const V1_NONE: u64 = 1 << 62;

/// Resident pages, from `/proc/self/statm`.
#[must_use]
pub fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Files below `/sys/fs/cgroup` that may hold a limit on this process, from `/proc/self/cgroup`: of its own group and
/// of every group around that. Some are not there: inside a container the path may be the host's, and the root has no
/// limit on a host.
#[must_use]
pub fn limit_files(cgroup: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (folder, file) = if controllers.is_empty() {
            ("", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("memory/", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // Nothing of it leads out of the mount.
        let groups: Vec<&str> = path.split('/').filter(|group| !matches!(*group, "" | "." | "..")).collect();
        for depth in (0..=groups.len()).rev() {
            let group = [&groups[..depth], &[file]].concat().join("/");
            files.push(format!("{folder}{group}"));
        }
    }
    files
}

/// The limit in such a file; `None`: none.
#[must_use]
pub fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < V1_NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(resident_pages("38612 4242 2050 2931 0 5520 0\n"), Some(4242));
        assert_eq!((resident_pages(""), resident_pages("1"), resident_pages("1 x")), (None, None, None));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("536870912\n"), Some(512 << 20));
        assert_eq!(limit("9223372036854771712\n"), None, "no limit, as version 1 writes it");
    }

    #[test]
    fn a_limit_may_be_on_any_group_around_the_process() {
        assert_eq!(limit_files("0::/\n"), ["memory.max"]);
        assert_eq!(
            limit_files("0::/system.slice/portcullis.service\n"),
            ["system.slice/portcullis.service/memory.max", "system.slice/memory.max", "memory.max"]
        );
        let v1 = "12:cpu,cpuacct:/docker/ab\n5:memory:/docker/ab\n1:name=systemd:/docker/ab\n";
        let files = ["memory/docker/ab/memory.limit_in_bytes", "memory/docker/memory.limit_in_bytes"];
        assert_eq!(limit_files(v1), [files[0], files[1], "memory/memory.limit_in_bytes"]);
        assert_eq!(limit_files("0::/../../etc\n"), ["etc/memory.max", "memory.max"]);
        assert!(limit_files("").is_empty() && limit_files("nonsense\n::\n").len() <= 1);
    }
}
