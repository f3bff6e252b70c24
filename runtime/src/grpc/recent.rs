//! What became of the newest calls with an idempotency key, for those that come again.

use std::collections::{BTreeMap, VecDeque};

use realtime_core::id::Mid;
use tokio::sync::watch;

use crate::link::Receipt;

/// Gets the receipt of a publication once it is there.
pub(super) type Awaited = watch::Receiver<Option<Receipt>>;

/// The receipts of this instance's newest publications with a key, by their mids.
#[derive(Debug, Default)]
pub(super) struct Recent {
    receipts: BTreeMap<Mid, Awaited>,
    order: VecDeque<Mid>,
}

impl Recent {
    pub(super) fn remember(&mut self, mid: Mid, receipt: Awaited) {
        if self.order.len() == RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.receipts.remove(&oldest);
        }
        self.order.push_back(mid);
        self.receipts.insert(mid, receipt);
    }

    /// Nothing was published under this mid.
    pub(super) fn forget(&mut self, mid: Mid) {
        // It is among the newest ones.
        if let Some(at) = self.order.iter().rposition(|known| *known == mid) {
            self.order.remove(at);
            self.receipts.remove(&mid);
        }
    }

    pub(super) fn of(&self, mid: Mid) -> Option<Awaited> {
        self.receipts.get(&mid).cloned()
    }
}

/// Calls that are remembered: some 3 MB.
const RECENT_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_calls_are_forgotten() {
        let mut recent = Recent::default();
        let (_sender, receipt) = watch::channel(None);
        for mid in 0..=RECENT_MAX as u64 {
            recent.remember(Mid(mid), receipt.clone());
        }
        assert!(recent.of(Mid(0)).is_none() && recent.of(Mid(1)).is_some());
        assert_eq!(recent.receipts.len(), RECENT_MAX);
    }

    #[test]
    fn what_was_not_published_takes_no_room() {
        let mut recent = Recent::default();
        let (_sender, receipt) = watch::channel(None);
        recent.remember(Mid(1), receipt.clone());
        for mid in 2..=2 * RECENT_MAX as u64 {
            recent.remember(Mid(mid), receipt.clone());
            recent.forget(Mid(mid));
        }
        assert!(recent.of(Mid(1)).is_some() && recent.of(Mid(2)).is_none());
        assert_eq!((recent.receipts.len(), recent.order.len()), (1, 1));
    }
}
