//! [`Prefetcher`]: an iterator that works one item ahead in a thread of its own, so that a batch is copied to a device
//! while the model trains on the one before it.

use crossbeam_channel::{Receiver, bounded};
use std::thread::JoinHandle;

/// Yields the items of an iterator in order, and computes the next item while the last one is in use. A panic of the
/// iterator is passed on to the consumer.
pub struct Prefetcher<I> {
    items: Option<Receiver<I>>,
    thread: Option<JoinHandle<()>>,
}

impl<I: Send + 'static> Prefetcher<I> {
    /// Starts the thread; dropping the prefetcher ends it.
    pub fn new(iterator: impl Iterator<Item = I> + Send + 'static) -> Self {
        let (sender, items) = bounded(0); // the thread holds the next item until it is asked for
        let thread = std::thread::spawn(move || {
            for item in iterator {
                if sender.send(item).is_err() {
                    return; // the consumer is gone
                }
            }
        });
        Self { items: Some(items), thread: Some(thread) }
    }
}

impl<I> Iterator for Prefetcher<I> {
    type Item = I;

    fn next(&mut self) -> Option<I> {
        if let Some(item) = self.items.as_ref().and_then(|items| items.recv().ok()) {
            return Some(item);
        }
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

impl<I> Drop for Prefetcher<I> {
    fn drop(&mut self) {
        self.items = None; // lets the thread end
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // nothing is left to receive its panic
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn items_come_in_order_and_work_stops_with_the_reader() {
        assert!(Prefetcher::new(0..100).eq(0..100));
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let mut prefetcher = Prefetcher::new((0..1000).inspect(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        assert_eq!(prefetcher.next(), Some(0));
        drop(prefetcher);
        assert!((1..=3).contains(&made.load(Ordering::SeqCst)), "one is read, one is ahead");
    }

    #[test]
    #[should_panic(expected = "broken")]
    fn a_panic_reaches_the_reader() {
        Prefetcher::new((0..3).map(|i| if i == 2 { panic!("broken") } else { i })).count();
    }
}
