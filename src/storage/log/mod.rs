//! The append-only log of one storage executor: plain functions over files, without threads of their own.
//!
//! ```text
//! log/<generation>-<executor>/0000000001.log   a segment: header, then frames          segment.rs, frame.rs
//!                             spare-3.log      a preallocated file for a later segment  spare_segments.rs
//!                             CHECKPOINT       first segment still needed               checkpoint_file.rs
//! ```
//!
//! Three threads share a log:
//!
//! ```text
//! storage executor   LogWriter::append: one buffered pwrite a frame            log_writer.rs
//! syncer             SharedLog::sync: fdatasync, then "durable up to"          shared_log.rs
//! checkpointer       LogReader over sealed segments, CheckpointFile, recycling log_reader.rs
//! ```
//!
//! A log is written by one process only: the next start has the next generation and begins another folder, so nothing
//! is ever written behind a torn frame.

mod checkpoint_file;
mod frame;
mod log_disk;
mod log_position;
mod log_reader;
mod log_writer;
mod segment;
mod shared_log;
mod spare_segments;
#[cfg(test)]
mod test_disk;

pub use checkpoint_file::{Checkpoint, CheckpointError};
pub use frame::{FRAME_LEN_MAX, FrameBuffer, FrameFields};
pub use log_disk::{LogDisk, RealDisk, SegmentFile, replace_durably};
pub use log_position::{LogIdentity, LogPosition};
pub use log_reader::{Damage, Frame, LogEnd, LogReader, Next, ReadError};
pub use log_writer::{AppendError, Appended, LogWriter, SealedSegment};
pub use segment::{remove_segments_before, segment_path, segments_in};
pub use shared_log::{LogCreateError, LogFailure, LogOptions, SharedLog};
