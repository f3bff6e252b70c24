//! Replaces the clock and the randomness of libc, so that everything in the process that asks for
//! them gets those of the run. Threads without a run reach the kernel as always.
#![expect(unsafe_code, reason = "the functions of libc are replaced by ours")]

use std::{
    ffi::{c_int, c_long, c_uint, c_void},
    slice,
};

use libc::{clockid_t, size_t, ssize_t, timespec};
use realtime_sim::tier2::seam;

/// Ends the process when this thread asks the kernel for randomness in a way that the functions
/// below don't see: such a run could not be repeated.
pub(crate) fn forbid_raw_entropy() {
    let getrandom = u32::try_from(libc::SYS_getrandom).expect("numbers of calls are small");
    let step = |code: u32, jump: u8, operand: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf: jump,
        k: operand,
    };
    let mut filter = [
        // The number of the call is the first word of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, getrandom),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let length = u16::try_from(filter.len()).unwrap_or_default();
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives until then. Where it refuses, as within
    // some containers, runs go on without the wire.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
    }
}

/// See getrandom(2).
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    if seam::is_active() {
        // SAFETY: the caller promises `length` writable bytes.
        seam::fill(unsafe { slice::from_raw_parts_mut(buffer.cast(), length) });
        return ssize_t::try_from(length).unwrap_or(ssize_t::MAX);
    }
    // SAFETY: the arguments are passed on as they came.
    let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
    ssize_t::try_from(filled).unwrap_or(-1)
}

/// See getentropy(3).
#[unsafe(no_mangle)]
extern "C" fn getentropy(buffer: *mut c_void, length: size_t) -> c_int {
    let filled = getrandom(buffer, length, 0);
    if usize::try_from(filled) == Ok(length) { 0 } else { -1 }
}

/// See clock_gettime(2).
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let simulated = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => seam::unix(),
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => seam::monotonic(),
        // Processor time is real: it measures the run and decides nothing in it.
        _ => None,
    };
    let Some(simulated) = simulated else {
        // SAFETY: the arguments are passed on as they came.
        let failed = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return c_int::try_from(failed).unwrap_or(-1);
    };
    let tv_sec = i64::try_from(simulated.as_secs()).unwrap_or(i64::MAX);
    let tv_nsec = c_long::from(simulated.subsec_nanos().cast_signed());
    // SAFETY: the caller promises a writable timespec.
    unsafe { time.write(timespec { tv_sec, tv_nsec }) };
    0
}
