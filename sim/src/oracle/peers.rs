//! Connections are closed for a reason, and when there is one: silence, expiry, slowness, errors.

use std::time::Duration;

use realtime_core::{time::Instant, wire::CloseCode};

use crate::{plan::Knobs, session::Session};

use super::{Failure, Verdict};

/// What a judge of one connection needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The time.
    pub now: Instant,
    /// What the clock of the instance shows.
    pub unix_ms: u64,
    /// The limits.
    pub knobs: &'a Knobs,
    /// Instances may have stood still, or had their clocks set.
    pub is_steady: bool,
}

/// A shard closes a connection.
pub fn closed(session: &Session, code: CloseCode, moment: Moment<'_>) -> Verdict {
    let silence = moment.now.saturating_since(session.heard);
    let knobs = moment.knobs;
    // What it answers first takes some time.
    let has_stalled = session.stalled_until.is_some() || moment.now < session.stalled + SLACK;
    let is_justified = match code {
        CloseCode::Silent => {
            // A worker that stands still may not come to ping.
            let was_deaf = session.pings > 0 && (session.vanished || has_stalled);
            silence >= pong_timeout(knobs) && (was_deaf || !moment.is_steady)
        }
        CloseCode::TokenExpired => session.expires_ms.is_some_and(|at| at <= moment.unix_ms),
        CloseCode::TooSlow => {
            let slow = session.congested.map(|since| moment.now.saturating_since(since));
            session.overflowed || slow.is_some_and(|slow| slow >= SLOW_TIMEOUT)
        }
        // Of the errors that it was told the last ones may not have fitted.
        CloseCode::Policy => session.errors >= knobs.errors || session.overflowed,
        CloseCode::TooManyMessages => session.limited || session.asked.len() > WAITING_MAX,
        CloseCode::Restarting => true, // The judge of drains looks at these.
        CloseCode::ProtocolError => session.misbehaved,
        CloseCode::Normal | CloseCode::Unsupported | CloseCode::InvalidText | CloseCode::TooBig => {
            false
        }
    };
    if is_justified {
        return Ok(());
    }
    Err(Failure::new("peers", format!("closed with {code:?} for no reason: {session:?}")))
}

/// An open connection, looked at from time to time and at the end.
pub fn open(session: &Session, moment: Moment<'_>) -> Verdict {
    let failed = |what: &str| Err(Failure::new("peers", format!("{what}: {session:?}")));
    if !moment.is_steady {
        return Ok(());
    }
    let silence = moment.now.saturating_since(session.heard.max(session.accepted));
    if silence > pong_timeout(moment.knobs) + SLACK {
        return failed("silent for too long, and still open");
    }
    if session.expires_ms.is_some_and(|at| at + SLACK_MS < moment.unix_ms) {
        return failed("the token has expired");
    }
    let slow = session.congested.map(|since| moment.now.saturating_since(since));
    if slow.is_some_and(|slow| slow > SLOW_TIMEOUT + SLACK) {
        return failed("slow for too long, and still open");
    }
    Ok(())
}

/// How long a silent peer may stay.
pub fn pong_timeout(knobs: &Knobs) -> Duration {
    Duration::from_millis(knobs.ping_ms * 2)
}

/// Requests that may wait for the answer to one of the same room.
pub const WAITING_MAX: usize = 8;

/// How long a slow peer may stay.
pub const SLOW_TIMEOUT: Duration = Duration::from_secs(2);

/// Timers turn in a wheel: what is due is seen a little later.
const SLACK: Duration = Duration::from_millis(SLACK_MS);

const SLACK_MS: u64 = 2_000;
