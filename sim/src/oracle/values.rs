//! Who is a member of a stream in the end has its newest latest value, and that of each key.

use std::collections::BTreeMap;

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

/// Where nothing is lost, a client has been sent the newest value of each key. `heard` are the
/// publications that it was sent.
pub fn of_each_key(truth: &Truth, session: &Session, heard: &[usize]) -> Verdict {
    let mut newest = BTreeMap::new();
    for (number, publication) in truth.publications.iter().enumerate() {
        if let Class::Latest(key) = publication.class
            && session.streams.contains_key(&publication.stream)
            && !publication.skips(session.user.as_deref())
        {
            newest.insert((publication.stream, key), number);
        }
    }
    for ((stream, key), number) in newest {
        if !heard.contains(&number) {
            let name = truth.name(stream);
            let what = format!("{name}: the newest value of {key} did not come");
            return Err(Failure::new("latest", what));
        }
    }
    Ok(())
}
