//! How files look from outside, to notice that one has changed without reading it.
//!
//! By polling, not by inotify: Kubernetes exchanges a symlink some folders up, editors put a new file in the old one's
//! place, and network file systems tell nobody. Links are followed, so an exchanged one is another inode; the change
//! time catches whatever keeps size and modification time.

use std::{fs::metadata, os::unix::fs::MetadataExt, path::PathBuf};

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How some files looked at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    /// How `files` look now; one that is not there looks like that.
    #[must_use]
    pub fn of(files: Vec<PathBuf>) -> Self {
        let stamp = |path: PathBuf| {
            let stamp = metadata(&path).ok().map(|data| Stamp {
                device: data.dev(),
                inode: data.ino(),
                size: data.size(),
                modified: (data.mtime(), data.mtime_nsec()),
                changed: (data.ctime(), data.ctime_nsec()),
            });
            (path, stamp)
        };
        Self(files.into_iter().map(stamp).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn an_exchanged_link_and_a_replaced_file_look_different() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("gateway.yaml"), "same").unwrap();
        }
        // As Kubernetes does it: the file is a link through a folder that is a link.
        symlink("one", at("..data")).unwrap();
        symlink("..data/gateway.yaml", at("gateway.yaml")).unwrap();
        let look = || Stamps::of(vec![at("gateway.yaml")]);
        let before = look();
        assert_eq!(before, look());
        symlink("two", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let after = look();
        assert_ne!(before, after);
        fs::write(at("two/new"), "same").unwrap();
        fs::rename(at("two/new"), at("two/gateway.yaml")).unwrap();
        assert_ne!(after, look());
        fs::remove_file(at("gateway.yaml")).unwrap();
        assert_eq!(look(), look());
    }
}
