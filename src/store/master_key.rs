//! Where the master key comes from: the settings, or a file beside the SQLite database, made once.
//!
//! A key that is lost is lost with everything sealed under it, so none is ever made while sealed rows exist: a
//! missing file is then an error that says so. The file appears whole or not at all and only for its owner (0600); a
//! crash at any moment leaves either no key or a good one.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{
    SecretSlice,
    zeroize::{Zeroize, Zeroizing},
};

use crate::{
    clock::Entropy,
    config::settings::{self, Engine},
    policy::master_key::{KeyLength, MASTER_KEY_LEN, MasterKey},
};

/// The file's name, in the folder of the database.
const FILE_NAME: &str = "master.key";

/// Why there is no master key. Never holds a byte of one.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyFault {
    /// PostgreSQL has no folder of ours to keep one in.
    #[error("store.master_key is required with PostgreSQL: 32 bytes, from a file or the environment")]
    Required,
    /// The configured key is not 32 bytes long.
    #[error("store.master_key: {0}")]
    Length(#[from] KeyLength),
    /// The database holds values sealed under a key that is gone.
    #[error(
        "{0} is missing, but the database holds secrets sealed under it: put the file back from your backup \
         (a new key could not open them)"
    )]
    Missing(PathBuf),
    /// The file is not what we wrote.
    #[error("{0} is not a master key: expected 32 bytes in base64 on one line")]
    Malformed(PathBuf),
    /// Others than its owner, its group among them, may do something with the file.
    #[error("{0} is open to its group or to others: run `chmod 600` on it")]
    Exposed(PathBuf),
    /// The file cannot be read or made.
    #[error("cannot use {path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        cause: io::Error,
    },
}

/// The master key that the settings name; with SQLite and none configured, the one beside the database, which is
/// made if there is none. `sealed_rows`: the store already holds sealed values (any signing key is one), so that a
/// missing file means a lost key.
pub fn master_key(
    settings: &settings::Store,
    sealed_rows: bool,
    entropy: &dyn Entropy,
) -> Result<MasterKey, MasterKeyFault> {
    if let Some(configured) = &settings.master_key {
        return Ok(MasterKey::from_slice(configured)?);
    }
    let Engine::Sqlite { path } = &settings.engine else { return Err(MasterKeyFault::Required) };
    let file = path.with_file_name(FILE_NAME);
    if let Some(key) = read(&file)? {
        return Ok(key);
    }
    if sealed_rows {
        return Err(MasterKeyFault::Missing(file));
    }
    make(&file, entropy).map_err(|cause| MasterKeyFault::File { path: file.clone(), cause })?;
    // Read back rather than remembered: another process may have been first, and what counts is what is there.
    read(&file)?.ok_or(MasterKeyFault::Missing(file))
}

fn read(path: &Path) -> Result<Option<MasterKey>, MasterKeyFault> {
    let fault = |cause| MasterKeyFault::File { path: path.to_owned(), cause };
    let text = match fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(fault(cause)),
    };
    let mode = fs::metadata(path).map_err(fault)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(MasterKeyFault::Exposed(path.to_owned()));
    }
    let malformed = || MasterKeyFault::Malformed(path.to_owned());
    let bytes = BASE64_STANDARD.decode(text.trim_ascii()).map_err(|_| malformed())?;
    MasterKey::from_slice(&SecretSlice::from(bytes)).map(Some).map_err(|_| malformed())
}

/// Writes a fresh key beside its place, then links it there, which fails if the place is taken: exclusive like
/// `O_EXCL`, and never half-written.
fn make(path: &Path, entropy: &dyn Entropy) -> io::Result<()> {
    let mut suffix = [0; 8];
    entropy.fill(&mut suffix);
    let draft = path.with_file_name(format!("{FILE_NAME}.{:016x}", u64::from_be_bytes(suffix)));
    let linked = write_fresh(&draft, entropy).and_then(|()| fs::hard_link(&draft, path));
    let removed = fs::remove_file(&draft);
    match linked {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => removed,
        Err(cause) => Err(cause),
        Ok(()) => {
            removed?;
            // The name is durable only when its folder is.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        }
    }
}

fn write_fresh(draft: &Path, entropy: &dyn Entropy) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    // The mode above is subject to the umask; this one is not.
    file.set_permissions(Permissions::from_mode(0o600))?;
    let mut bytes = [0; MASTER_KEY_LEN];
    entropy.fill(&mut bytes);
    let text = Zeroizing::new(format!("{}\n", BASE64_STANDARD.encode(bytes)));
    bytes.zeroize();
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, sync::Barrier, time::Duration};

    use secrecy::{ExposeSecret, SecretString};
    use tempfile::TempDir;

    use super::*;
    use crate::clock::SystemEntropy;

    fn sqlite(folder: &TempDir) -> settings::Store {
        settings::Store {
            engine: Engine::Sqlite { path: folder.path().join("portcullis.db") },
            master_key: None,
            pool: 1,
            timeout: Duration::from_secs(1),
        }
    }

    fn print_of(key: &MasterKey) -> [u8; 32] {
        *key.derive("fingerprint", b"", b"").expose_secret()
    }

    fn fault(settings: &settings::Store, sealed_rows: bool) -> MasterKeyFault {
        master_key(settings, sealed_rows, &SystemEntropy).expect_err("refused")
    }

    #[test]
    fn the_first_start_makes_a_key_for_its_owner_only_and_the_second_finds_it() {
        let folder = TempDir::new().unwrap();
        let first = master_key(&sqlite(&folder), false, &SystemEntropy).unwrap();
        let second = master_key(&sqlite(&folder), true, &SystemEntropy).unwrap();
        assert_eq!(print_of(&first), print_of(&second));
        let metadata = fs::metadata(folder.path().join(FILE_NAME)).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!(metadata.nlink(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left behind");
    }

    #[test]
    fn two_folders_get_two_keys() {
        let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let keys = [one, other].map(|folder| master_key(&sqlite(&folder), false, &SystemEntropy).unwrap());
        assert_ne!(print_of(&keys[0]), print_of(&keys[1]));
    }

    #[test]
    fn many_starts_at_once_agree_on_one_key() {
        let folder = TempDir::new().unwrap();
        let settings = sqlite(&folder);
        let barrier = Barrier::new(8);
        let prints: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        print_of(&master_key(&settings, false, &SystemEntropy).unwrap())
                    })
                })
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(prints.iter().all(|print| *print == prints[0]));
    }

    #[test]
    fn a_lost_key_is_never_made_anew_while_sealed_rows_exist() {
        let folder = TempDir::new().unwrap();
        let told = fault(&sqlite(&folder), true);
        assert!(matches!(told, MasterKeyFault::Missing(_)), "{told}");
        assert!(told.to_string().contains("master.key"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn postgres_needs_a_configured_key() {
        let folder = TempDir::new().unwrap();
        let url = SecretString::from("postgres://localhost/x");
        let mut settings = settings::Store { engine: Engine::Postgres { url }, ..sqlite(&folder) };
        assert!(matches!(fault(&settings, false), MasterKeyFault::Required));
        settings.master_key = Some(SecretSlice::from(vec![5; 32]));
        assert_eq!(
            print_of(&master_key(&settings, true, &SystemEntropy).unwrap()),
            print_of(&MasterKey::new(&mut [5; 32]))
        );
    }

    #[test]
    fn a_configured_key_wins_over_the_file_and_must_be_32_bytes() {
        let folder = TempDir::new().unwrap();
        let mut settings = sqlite(&folder);
        settings.master_key = Some(SecretSlice::from(vec![5; 31]));
        assert!(matches!(fault(&settings, false), MasterKeyFault::Length(KeyLength(31))));
        settings.master_key = Some(SecretSlice::from(vec![5; 32]));
        master_key(&settings, false, &SystemEntropy).unwrap();
        assert!(!folder.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_left_as_it_is() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(FILE_NAME);
        for text in ["", "short", "AAAA", "!!!!"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(fault(&sqlite(&folder), false), MasterKeyFault::Malformed(_)), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = TempDir::new().unwrap();
        master_key(&sqlite(&folder), false, &SystemEntropy).unwrap();
        // Of others, of its group, and to write or run alone.
        for mode in [0o644, 0o604, 0o640, 0o620, 0o610, 0o602] {
            fs::set_permissions(folder.path().join(FILE_NAME), Permissions::from_mode(mode)).unwrap();
            assert!(matches!(fault(&sqlite(&folder), false), MasterKeyFault::Exposed(_)), "{mode:o}");
        }
        fs::set_permissions(folder.path().join(FILE_NAME), Permissions::from_mode(0o400)).unwrap();
        master_key(&sqlite(&folder), false, &SystemEntropy).unwrap();
    }
}
