//! What is asked of a file system, and how a real one does it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::StoreError;

/// A folder of files. Another one stands in for it in tests: it forgets what was not synced, and fails when told to.
pub trait Disk: Send + 'static {
    /// One of its files.
    type File: DiskFile;

    /// The names of its files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file of zeros, of which every byte can be written even when the disk is full.
    fn create(&mut self, name: &str, size: u64) -> io::Result<Self::File>;
    /// A file that is there, to be read and written.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name; whatever had that name is gone.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Returns when names that were given and removed would survive a power cut.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts a file off behind so many bytes.
    fn truncate(&mut self, name: &str, size: u64) -> io::Result<()>;
    /// Adds a line to a text file; starts it anew when it would be longer than `most` bytes.
    fn append_line(&mut self, name: &str, line: &str, most: u64) -> io::Result<()>;
}

/// A file.
pub trait DiskFile: Send + 'static {
    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads at a place, less than asked for only at the end.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of it at a place.
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Returns when what was written would survive a power cut.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of this machine.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    directory: File,
    /// Held as long as this exists; the kernel lets go of it with the process.
    _lock: Option<File>,
}

impl Folder {
    /// Makes the folder if need be, and sees to it that nobody else writes into it.
    pub fn lock(path: &Path) -> Result<Self, StoreError> {
        let is_new = !path.exists();
        std::fs::create_dir_all(path)?;
        if is_new && let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        let lock =
            private(OpenOptions::new().create(true).truncate(false).write(true)).open(path.join("lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(StoreError::InUse),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        Ok(Self { path: path.to_path_buf(), directory: File::open(path)?, _lock: Some(lock) })
    }

    /// A folder that is only looked at, beside whoever writes into it.
    pub fn look(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), directory: File::open(path)?, _lock: None })
    }
}

/// For us alone: messages are nobody else's business.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

impl Disk for Folder {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let names =
            std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into()));
        names.collect()
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<File> {
        let path = self.path.join(name);
        let file =
            private(OpenOptions::new().read(true).write(true).create(true).truncate(true)).open(&path)?;
        let allocated = match fallocate(&file, FallocateFlags::empty(), 0, size) {
            // vfat, NFS and others: zeros that are written are allocated too.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(&file, size),
            other => other.map_err(io::Error::from),
        };
        if let Err(error) = allocated.and_then(|()| file.sync_all()) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let path = self.path.join(name);
        match self._lock {
            Some(_) => OpenOptions::new().read(true).write(true).open(path),
            None => File::open(path),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn truncate(&mut self, name: &str, size: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path.join(name))?.set_len(size)
    }

    fn append_line(&mut self, name: &str, line: &str, most: u64) -> io::Result<()> {
        use std::io::Write as _;
        let path = self.path.join(name);
        let long = std::fs::metadata(&path).map_or(0, |found| found.len());
        if long + line.len() as u64 + 1 > most {
            std::fs::rename(&path, self.path.join(format!("{name}.1")))?;
        }
        let mut file = private(OpenOptions::new().create(true).append(true)).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())
    }
}

fn write_zeros(file: &File, size: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = 0;
    while at < size {
        let count = ZEROS.len().min(usize::try_from(size - at).unwrap_or(ZEROS.len()));
        file.write_all_at(&ZEROS[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
