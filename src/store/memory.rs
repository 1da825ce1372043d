//! A disk for tests: it forgets what was not synced, and fails when told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::disk::{Disk, DiskFile};

/// Bytes that reach the platter together.
const SECTOR: usize = 512;

/// What the next operation meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// ENOSPC at writes and new files.
    Full,
    /// EIO at writes.
    Write,
    /// EIO at fdatasync; what was written is gone.
    Sync,
    /// EIO at fdatasync; what was written can be read until a power cut.
    Unsynced,
    /// EIO at reads.
    Read,
}

/// A folder in memory. Clones are the same folder.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<u64, Data>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    ids: u64,
    fault: Option<Fault>,
    /// How many operations go well before the fault.
    after: u32,
}

#[derive(Clone, Debug, Default)]
struct Data {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<bool>,
}

/// A file in memory.
#[derive(Clone, Debug)]
pub struct MemoryFile(Memory, u64);

impl Memory {
    /// After so many operations each one that it's about meets this.
    pub fn fail(&self, after: u32, fault: Option<Fault>) {
        let mut inner = self.0.lock().unwrap();
        (inner.fault, inner.after) = (fault, after);
    }

    /// A power cut: of what was not synced only those sectors stay of which `stays` says so.
    pub fn cut(&self, mut stays: impl FnMut() -> bool) -> Self {
        let inner = self.0.lock().unwrap();
        let mut after = Inner { ids: inner.ids, ..Inner::default() };
        let names = if stays() { &inner.names } else { &inner.durable_names };
        (after.names, after.durable_names) = (names.clone(), names.clone());
        for id in names.values() {
            let Some(file) = inner.files.get(id) else { continue };
            let mut bytes = file.durable.clone();
            bytes.resize(file.now.len(), 0);
            for (sector, _) in file.dirty.iter().enumerate().filter(|(_, dirty)| **dirty) {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(file.now.len());
                if stays() {
                    bytes[range.clone()].copy_from_slice(&file.now[range]);
                }
            }
            let dirty = vec![false; file.dirty.len()];
            after.files.insert(*id, Data { now: bytes.clone(), durable: bytes, dirty });
        }
        Self(Arc::new(Mutex::new(after)))
    }

    /// A copy as the kernel would show it after the process was killed.
    pub fn killed(&self) -> Self {
        self.cut(|| true)
    }

    /// The bytes of a file, to be harmed.
    pub fn with<T>(&self, name: &str, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut inner = self.0.lock().unwrap();
        let id = inner.names[name];
        let file = inner.files.get_mut(&id).unwrap();
        let result = act(&mut file.now);
        file.durable.clone_from(&file.now);
        file.dirty = vec![false; file.now.len().div_ceil(SECTOR)];
        result
    }

    fn act<T>(&self, faults: &[Fault], act: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.0.lock().unwrap();
        if inner.after > 0 {
            inner.after -= 1;
        } else if let Some(fault) = inner.fault.filter(|fault| faults.contains(fault)) {
            return Err(match fault {
                Fault::Full => io::ErrorKind::StorageFull.into(),
                _ => io::Error::from_raw_os_error(5),
            });
        }
        act(&mut inner)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Memory {
    type File = MemoryFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.act(&[Fault::Read], |inner| Ok(inner.names.keys().cloned().collect()))
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<MemoryFile> {
        let id = self.act(&[Fault::Full, Fault::Write], |inner| {
            inner.ids += 1;
            let size = size as usize;
            let dirty = vec![false; size.div_ceil(SECTOR)];
            inner.files.insert(inner.ids, Data { now: vec![0; size], durable: vec![0; size], dirty });
            inner.names.insert(name.into(), inner.ids);
            Ok(inner.ids)
        })?;
        Ok(MemoryFile(self.clone(), id))
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let id = self.act(&[Fault::Read], |inner| inner.names.get(name).copied().ok_or_else(missing))?;
        Ok(MemoryFile(self.clone(), id))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.act(&[Fault::Write], |inner| {
            let id = inner.names.remove(from).ok_or_else(missing)?;
            inner.names.insert(to.into(), id);
            Ok(())
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.act(&[Fault::Write], |inner| inner.names.remove(name).map(|_| ()).ok_or_else(missing))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.act(&[Fault::Sync, Fault::Unsynced], |inner| {
            inner.durable_names = inner.names.clone();
            Ok(())
        })
    }

    fn truncate(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.act(&[Fault::Write], |inner| {
            let id = *inner.names.get(name).ok_or_else(missing)?;
            let file = inner.files.get_mut(&id).ok_or_else(missing)?;
            file.now.truncate(size as usize);
            file.durable.truncate(size as usize);
            file.dirty.truncate((size as usize).div_ceil(SECTOR));
            Ok(())
        })
    }

    fn append_line(&mut self, _: &str, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        self.0.act(&[], |inner| Ok(inner.files[&self.1].now.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.act(&[Fault::Read], |inner| {
            let bytes = inner.files[&self.1].now.get(at as usize..).unwrap_or_default();
            let count = bytes.len().min(buffer.len());
            buffer[..count].copy_from_slice(&bytes[..count]);
            Ok(count)
        })
    }

    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.act(&[Fault::Write], |inner| {
            let file = inner.files.get_mut(&self.1).ok_or_else(missing)?;
            let at = at as usize;
            file.now[at..at + bytes.len()].copy_from_slice(bytes);
            if !bytes.is_empty() {
                file.dirty[at / SECTOR..=(at + bytes.len() - 1) / SECTOR].fill(true);
            }
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        let failed = self.0.act(&[Fault::Sync], |_| Ok(())).is_err();
        self.0.act(&[Fault::Unsynced], |_| Ok(()))?;
        let mut inner = self.0.0.lock().unwrap();
        let file = inner.files.get_mut(&self.1).ok_or_else(missing)?;
        if failed {
            // As Linux does: the pages are dropped, and the next fdatasync knows nothing of it.
            file.now.clone_from(&file.durable);
        } else {
            file.durable.clone_from(&file.now);
        }
        file.dirty.fill(false);
        if failed { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}
