//! The files of a slice, and how a column of one of their row groups is read.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parquet::column::page::PageReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::super::schema::Projection;
use super::chunk::{Chunk, decode, judge};
use super::claims::{check_claims, check_expansion, judge_headers};
use super::footers::{Footer, Layouts};
use super::room::Room;
use super::{Refusal, SourceFile, read_whole};

/// The files of a slice, with their footers.
pub(super) struct SliceFiles<'a> {
    pub(super) open: Vec<OpenFile<'a>>,
}

pub(super) struct OpenFile<'a> {
    pub(super) projection: &'a [Projection],
    pub(super) footer: Footer,
    source: Source,
    /// Among the files of the slice.
    position: usize,
}

/// Where the pages come from.
enum Source {
    Memory(Arc<Bytes>),
    /// Opened for each chunk: a slice may have more files than a process may have open.
    Disk(PathBuf),
}

impl<'a> SliceFiles<'a> {
    /// `time` is the group column by which row groups may be skipped.
    pub(super) fn open(files: &[SourceFile<'a>], time: usize, room: &Room<'_>) -> Result<Self, Refusal> {
        let whole = read_whole(files.iter().map(|f| f.size_bytes).sum());
        let mut layouts = Layouts::default();
        let open = files.iter().enumerate().map(|(position, file)| {
            room.check_wanted()?;
            let (footer, source) = if whole {
                room.take(file.size_bytes, "of files")?;
                let bytes = Bytes::from(fs::read(&file.path).map_err(|e| system(&e))?);
                (Footer::read(&bytes, file.projection, time, &mut layouts)?, Source::Memory(Arc::new(bytes)))
            } else {
                let disk = File::open(&file.path).map_err(|e| system(&e))?;
                (Footer::read(&disk, file.projection, time, &mut layouts)?, Source::Disk(file.path.clone()))
            };
            room.take(footer.bytes(), "of footers")?;
            Ok(OpenFile { projection: file.projection, footer, source, position })
        });
        Ok(Self { open: open.collect::<Result<_, Refusal>>()? })
    }
}

fn system(error: &std::io::Error) -> Refusal {
    Refusal::Unsuited(error.to_string())
}

impl OpenFile<'_> {
    /// Decodes a group column of a row group; with it, the size of its pages by the footer. `None`: the file has no such
    /// column. A chunk whose pages are larger than what is left of the memory is unsuited.
    pub(super) fn decode(
        &self,
        row_group: usize,
        column: usize,
        room: &Room<'_>,
    ) -> Result<Option<(Chunk, u64)>, Refusal> {
        let Some(leaf) = self.footer.leaf(column) else { return Ok(None) };
        let descriptor = self.footer.descriptor(leaf);
        let rows = self.footer.rows(row_group)?;
        let (chunk, size) = self.footer.chunk(row_group, leaf)?;
        room.check(size, "of one chunk")?;
        let claims = match &self.source {
            Source::Memory(bytes) => check_claims(&&bytes[..], &chunk, room),
            Source::Disk(path) => check_claims(&File::open(path).map_err(|e| system(&e))?, &chunk, room),
        };
        let are_known = claims.map_err(|refusal| self.of_chunk(refusal, &descriptor, row_group))?;
        let pages = || -> Result<Box<dyn PageReader>, Refusal> {
            Ok(match &self.source {
                Source::Memory(bytes) => {
                    Box::new(SerializedPageReader::new(Arc::clone(bytes), &chunk, rows, None).map_err(judge)?)
                }
                Source::Disk(path) => {
                    let file = Arc::new(File::open(path).map_err(|e| system(&e))?);
                    Box::new(SerializedPageReader::new(file, &chunk, rows, None).map_err(judge)?)
                }
            })
        };
        // Nothing says yet that the file is sound, and decoders may panic on what is not.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            if are_known { decode(&descriptor, rows, &pages, room) } else { Err(judge_headers(pages()?)) }
        }));
        let decoded = decoded.unwrap_or_else(|_| Err(Refusal::Damaged("the decoder panicked".to_owned())));
        decoded.map(|chunk| Some((chunk, size))).map_err(|refusal| self.of_chunk(refusal, &descriptor, row_group))
    }

    /// Looks at what the pages of a group column really become, where the decoder would go on for as long as there is more.
    pub(super) fn check_expansion(&self, row_group: usize, column: usize) -> Result<(), Refusal> {
        let Some(leaf) = self.footer.leaf(column) else { return Ok(()) };
        let (chunk, _) = self.footer.chunk(row_group, leaf)?;
        let checked = match &self.source {
            Source::Memory(bytes) => check_expansion(&&bytes[..], &chunk),
            Source::Disk(path) => check_expansion(&File::open(path).map_err(|e| system(&e))?, &chunk),
        };
        checked.map_err(|refusal| self.of_chunk(refusal, &self.footer.descriptor(leaf), row_group))
    }

    /// Says of which file and chunk something is damaged.
    fn of_chunk(&self, refusal: Refusal, column: &ColumnDescriptor, row_group: usize) -> Refusal {
        match refusal {
            Refusal::Damaged(why) => {
                let why = format!("column {:?}, row group {row_group}: {why}", column.name());
                Refusal::DamagedFile(self.position, why)
            }
            other => other,
        }
    }
}
