//! Reading a file within limits.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;

use super::codes;
use crate::model::diagnostic::{Diagnostics, SourceFile, Span};

/// Largest configuration file, in bytes: about 40,000 points. Larger ones are refused before they are read.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a configuration file. What is wrong with it is reported; `name` is how messages call it.
pub fn read(path: &Path, found: &mut Diagnostics) -> Option<Arc<SourceFile>> {
    let name = path.display().to_string();
    match read_bytes(path) {
        Err(cause) if cause.kind() == ErrorKind::FileTooLarge => {
            found
                .error_nowhere(codes::FILE_TOO_LARGE, format!("{name}: larger than {MAX_FILE_BYTES} bytes"))
                .help("a configuration file may have 4 MiB; split the profile");
            None
        }
        Ok(bytes) => decode(name, bytes, found),
        Err(cause) => {
            found.error_nowhere(codes::FILE_UNREADABLE, format!("{name}: cannot be read: {cause}"));
            None
        }
    }
}

/// Reads at most one byte more than the limit, and nothing of what is no regular file or is too large to begin with.
pub fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    // Checked before opening: opening a FIFO without a writer waits for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE_BYTES {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    // It may have grown meanwhile.
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn decode(name: String, bytes: Vec<u8>, found: &mut Diagnostics) -> Option<Arc<SourceFile>> {
    match String::from_utf8(bytes) {
        Ok(text) => Some(Arc::new(SourceFile { path: name, text })),
        Err(error) => {
            // The text up to the fault is the same in the lossy copy, so the place holds.
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let span = Span { file: Arc::new(SourceFile { path: name, text }), range: at..at + 1 };
            found
                .error(codes::NOT_UTF8, &span, "this byte is not UTF-8")
                .help("save the file as UTF-8 (in Latin-1, '°' is such a byte)");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_file_is_refused_without_reading_it() {
        let path = std::env::temp_dir().join(format!("taktbus-source-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(100 * 1024 * 1024).unwrap();
        let mut found = Diagnostics::default();
        assert!(read(&path, &mut found).is_none());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found.sorted()[0].code, codes::FILE_TOO_LARGE);
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_reported_at_its_place() {
        let mut found = Diagnostics::default();
        assert!(decode("f".into(), b"site: x\nunit: \xb0C".to_vec(), &mut found).is_none());
        assert_eq!(found.sorted()[0].span.as_ref().unwrap().line_column(), (2, 7));
    }

    #[test]
    fn a_folder_is_no_file() {
        let mut found = Diagnostics::default();
        assert!(read(&std::env::temp_dir(), &mut found).is_none());
        assert_eq!(found.sorted()[0].code, codes::FILE_UNREADABLE);
    }
}
