//! Who is a member of a stream in the end has its newest latest value.

use crate::{
    plan::Class,
    session::Session,
    truth::{StreamId, Truth},
};

use super::{Failure, Verdict};

/// A client has been sent the newest of the values that the broker keeps, but for those that it is
/// excluded from, and for those that were there when it was told to fetch the state: who becomes a
/// member while the broker is away has no place and is given no values. `versions` are those that
/// the broker has of a stream.
pub fn judge<I: Iterator<Item = u64>>(
    truth: &Truth,
    versions: impl Fn(StreamId) -> I,
    session: &Session,
) -> Verdict {
    for (stream, seen) in &session.streams {
        let is_for_it = |version: &u64| {
            let mut of = truth.publications.iter().filter(|publication| {
                publication.stream == *stream
                    && matches!(publication.class, Class::Latest(_))
                    && publication.taken.is_some_and(|taken| taken.version == *version)
            });
            of.any(|publication| {
                publication.exclude.is_none() || publication.exclude != session.user
            })
        };
        if let Some(newest) = versions(*stream).filter(is_for_it).max()
            && newest > seen.latest.max(seen.fetched)
        {
            let name = truth.name(*stream);
            let what = format!("{name}: the newest value is {newest}, the client has {seen:?}");
            return Err(Failure::new("latest", what));
        }
    }
    Ok(())
}
