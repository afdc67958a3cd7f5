//! Files that hold secrets or state of a program.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file that only its owner may read (mode 0600), whole or not at all: after a crash or on a full disk there is
/// what was there before. Its folder has to exist. Blocks until the content is on the disk.
///
/// # Errors
/// What the system says; nothing half written stays beside the file where it can be removed.
pub fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let written = write(beside, bytes).and_then(|()| std::fs::rename(beside, file));
    if written.is_err() {
        // The reason of the failure is what counts; what is left is written over next time.
        let _removed = std::fs::remove_file(beside);
    }
    written?;
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut open = options.open(file)?;
    open.write_all(bytes)?;
    open.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tls.key");
        write_private(&file, b"one").unwrap();
        write_private(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        // Where the new content cannot be put, the old one stays and nothing else does.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        std::fs::write(taken.join("in"), b"it").unwrap();
        write_private(&taken, b"three").unwrap_err();
        assert_eq!(std::fs::read(taken.join("in")).unwrap(), b"it");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
