//! A new file that is written and hashed while its content is still being put together.
//!
//! Reading slices, hashing and writing take about the same time each, and one thread that does all of it leaves the other
//! processors idle. What must hold: both threads get every byte in order; only so many pieces are under way, so memory does
//! not grow with the file; an error of the disk comes back as what it is.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;

use super::super::MergeError;

const PIECE_BYTES: usize = 1 << 20;

/// Pieces that wait for each of the threads.
const PIECES_WAITING: usize = 4;

/// What was written.
pub(super) struct Written {
    pub(super) size_bytes: u64,
    /// `blake3:` and 64 hexadecimal digits.
    pub(super) checksum: String,
}

/// Writes into `file` what `put_together` makes. `failed` says what an error of the disk is about.
pub(super) fn write_hashed<T>(
    mut file: File,
    put_together: impl FnOnce(&mut Pieces) -> Result<T, MergeError>,
    failed: impl Fn(io::Error) -> MergeError,
) -> Result<(T, Written), MergeError> {
    thread::scope(|scope| {
        let (to_disk, for_disk) = sync_channel::<Bytes>(PIECES_WAITING);
        let (to_hash, for_hash) = sync_channel::<Bytes>(PIECES_WAITING);
        let writing = scope.spawn(move || for_disk.iter().try_for_each(|piece| file.write_all(&piece)));
        let hashing = scope.spawn(move || {
            let mut hasher = blake3::Hasher::new();
            for piece in for_hash {
                hasher.update(&piece);
            }
            hasher
        });
        let mut pieces = Pieces { collected: Vec::new(), to_disk, to_hash };
        let made = put_together(&mut pieces);
        let sent = pieces.send();
        // The threads end with what they have.
        drop(pieces);
        let hasher = hashing.join().unwrap_or_else(|panic| resume_unwind(panic));
        // Whatever else failed, failed because of this.
        writing.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(&failed)?;
        let made = made?;
        sent.map_err(failed)?;
        let checksum = format!("blake3:{}", hasher.finalize().to_hex());
        Ok((made, Written { size_bytes: hasher.count(), checksum }))
    })
}

/// Collects what is written, and passes it on piece by piece.
pub(super) struct Pieces {
    collected: Vec<u8>,
    to_disk: SyncSender<Bytes>,
    to_hash: SyncSender<Bytes>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.collected));
        let sent = self.to_disk.send(piece.clone()).is_ok() && self.to_hash.send(piece).is_ok();
        // A thread ends early only when the disk failed, which it says itself.
        if sent { Ok(()) } else { Err(io::Error::from(ErrorKind::BrokenPipe)) }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.collected.capacity() == 0 {
            self.collected.reserve_exact(PIECE_BYTES);
        }
        let taken = bytes.len().min(PIECE_BYTES - self.collected.len());
        self.collected.extend_from_slice(&bytes[..taken]);
        if self.collected.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_byte_is_written_and_hashed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for (number, length) in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 9 * PIECE_BYTES + 7].into_iter().enumerate() {
            let bytes: Vec<u8> = (0_u8..251).cycle().step_by(31).take(length).collect();
            let path = dir.path().join(number.to_string());
            let put = |pieces: &mut Pieces| bytes.chunks(77_777).try_for_each(|c| pieces.write_all(c)).map_err(engine);
            let ((), written) = write_hashed(File::create_new(&path).unwrap(), put, engine).unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{length}");
            assert_eq!(written.size_bytes, length as u64);
            assert_eq!(written.checksum, format!("blake3:{}", blake3::hash(&bytes).to_hex()));
        }
    }

    #[test]
    fn an_error_of_the_disk_is_told_as_such() {
        // Always full.
        let file = File::options().write(true).open("/dev/full").unwrap();
        let put = |pieces: &mut Pieces| pieces.write_all(&vec![7; 20 * PIECE_BYTES]).map_err(engine);
        let error = write_hashed(file, put, engine).err().unwrap().to_string();
        assert!(error.contains("No space left"), "{error}");
    }

    #[allow(clippy::needless_pass_by_value, reason = "for map_err")]
    fn engine(error: io::Error) -> MergeError {
        MergeError::Engine(error.to_string())
    }
}
