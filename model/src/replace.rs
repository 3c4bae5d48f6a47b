//! Whole files only: what is written appears under its name when it is complete.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

/// Writes a small file by way of a temporary one in `within`, which is on the same file system.
///
/// # Errors
/// What the operating system says; then `path` is as it was.
pub fn replace(path: &Path, within: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".kinglet-").tempfile_in(within)?;
    file.write_all(bytes)?;
    persist(file, path)
}

/// Gives a file that is complete its name, in place of what had it.
pub(crate) fn persist(file: NamedTempFile, path: &Path) -> std::io::Result<()> {
    file.as_file().sync_all()?;
    set_usual_permissions(file.as_file())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Temporary files are private; a model is an ordinary file.
#[cfg(unix)]
fn set_usual_permissions(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_usual_permissions(_: &File) -> std::io::Result<()> {
    Ok(())
}
