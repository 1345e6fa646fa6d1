//! Admission: what has been planned waits here, in a queue for each set of hosts, and is let in round robin, so that a
//! host that pauses holds up nothing but its own. Not here: how much is let in at a time (`run.rs`).

use std::collections::{HashMap, VecDeque};

use super::dates::DateId;
use super::image::ImageId;
use super::places::{HostId, PlaceId};

#[derive(Default)]
pub(super) struct Admission {
    queues: Vec<Queue>,
    queue_of: HashMap<(HostId, Vec<HostId>), usize>,
    /// Queues that are not empty, in turn.
    turns: VecDeque<usize>,
    waiting: usize,
}

struct Queue {
    source: HostId,
    targets: Vec<HostId>,
    entries: VecDeque<Entry>,
}

/// What waits for admission.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// The tags of a source repository have to be listed first.
    List(PlaceId),
    /// The repositories of a namespace have to be listed first.
    Catalog(PlaceId),
    /// A rule has to know when this image was made.
    Date(DateId),
    Image(ImageId),
}

impl Admission {
    /// Puts an entry at the end of the queue of its hosts.
    pub(super) fn push(&mut self, source: HostId, mut targets: Vec<HostId>, entry: Entry) {
        targets.sort_unstable();
        targets.dedup();
        let queues = &mut self.queues;
        let number = *self
            .queue_of
            .entry((source, targets.clone()))
            .or_insert_with(|| {
                queues.push(Queue {
                    source,
                    targets,
                    entries: VecDeque::new(),
                });
                queues.len() - 1
            });
        if let Some(queue) = queues.get_mut(number) {
            if queue.entries.is_empty() {
                self.turns.push_back(number);
            }
            queue.entries.push_back(entry);
            self.waiting += 1;
        }
    }

    /// The next entry, of the next queue whose hosts do not pause.
    pub(super) fn next(&mut self, is_open: impl Fn(HostId) -> bool) -> Option<Entry> {
        for _ in 0..self.turns.len() {
            let number = self.turns.pop_front()?;
            let queue = self.queues.get_mut(number)?;
            let may_go = is_open(queue.source) && queue.targets.iter().any(|&host| is_open(host));
            let entry = if may_go {
                queue.entries.pop_front()
            } else {
                None
            };
            if !queue.entries.is_empty() {
                self.turns.push_back(number);
            }
            if entry.is_some() {
                self.waiting -= 1;
                return entry;
            }
        }
        None
    }

    /// How many entries wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }
}
