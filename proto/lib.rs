//! The gRPC contract: messages, server and client of `realtime.RealtimeService`.
#![forbid(unsafe_code)]
#![allow(missing_debug_implementations, reason = "generated code")]
#![allow(clippy::all, clippy::nursery, clippy::pedantic, reason = "generated code")]
#![allow(clippy::allow_attributes_without_reason, reason = "generated code")]
#![allow(unreachable_pub, unused_qualifications, reason = "generated code")]

tonic::include_proto!("realtime");

/// The encoded `FileDescriptorSet` of `realtime.proto`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
