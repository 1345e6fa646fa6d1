//! Children of indexes: each is read once by digest, wherever it goes, and its bytes are held only while somebody
//! will put them. Not here: asking targets for them and putting them (`parts.rs`).

use std::sync::Arc;

use super::arena::Id;
use super::graph::Graph;
use super::image::Had;
use super::places::PlaceId;
use super::task::{Kind, State, TaskId};
use crate::oci::{Descriptor, Manifest};

pub(super) type ChildId = Id<Child>;

pub(super) struct Child {
    pub(super) descriptor: Descriptor,
    pub(super) source: PlaceId,
    /// Other repositories whose indexes name it.
    others: Vec<PlaceId>,
    state: ChildState,
    /// Tasks that need its bytes.
    waiting: Vec<TaskId>,
    /// Tasks that bring it to a place, those that failed in this pass among them.
    pub(super) tasks: u32,
    /// Of these, those that need its bytes or will put them.
    users: u32,
}

pub(super) enum ChildState {
    Unread,
    /// By this task.
    Reading(TaskId),
    Held(Arc<Manifest>),
    /// What a platform filter cut out of an index: the source does not have it, so it is kept.
    Made(Arc<Manifest>),
    /// There is no such manifest, but its type may be a blob's: it is copied as one (protocol.md M12).
    Blob,
}

/// The child of an index on its way to one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChildAt {
    pub(super) child: ChildId,
    pub(super) place: PlaceId,
    pub(super) source: PlaceId,
    pub(super) depth: u8,
    /// What the place has under its digest; `None`: that is still to be asked.
    pub(super) had: Option<Had>,
    /// It is not asked for but put whatever the place has.
    pub(super) is_forced: bool,
}

impl Child {
    pub(super) fn manifest(&self) -> Option<Arc<Manifest>> {
        match &self.state {
            ChildState::Held(manifest) | ChildState::Made(manifest) => Some(manifest.clone()),
            ChildState::Unread | ChildState::Reading(_) | ChildState::Blob => None,
        }
    }

    pub(super) fn is_blob(&self) -> bool {
        matches!(self.state, ChildState::Blob)
    }

    fn drop_unused(&mut self) {
        if self.users == 0 && matches!(self.state, ChildState::Held(_)) {
            self.state = ChildState::Unread;
        }
    }
}

impl Graph<'_> {
    pub(super) fn child(&mut self, descriptor: &Descriptor, source: PlaceId) -> ChildId {
        if let Some(&child) = self.child_ids.get(&descriptor.digest) {
            let row = &mut self.children[child];
            if row.source != source && !row.others.contains(&source) {
                row.others.push(source);
            }
            return child;
        }
        let child = self.children.push(Child {
            descriptor: descriptor.clone(),
            source,
            others: Vec::new(),
            state: ChildState::Unread,
            waiting: Vec::new(),
            tasks: 0,
            users: 0,
        });
        self.child_ids.insert(descriptor.digest.clone(), child);
        child
    }

    /// Takes in a child that the source does not have.
    pub(super) fn add_made(&mut self, manifest: Arc<Manifest>, source: PlaceId) {
        let child = self.child(&manifest.descriptor(), source);
        let row = &mut self.children[child];
        if matches!(row.state, ChildState::Unread) {
            row.state = ChildState::Made(manifest);
        }
    }

    /// The place lacks a child, or maybe parts of it: its bytes are needed, and then its parts.
    pub(super) fn need_child(&mut self, task: TaskId, had: Had) {
        let order = self.tasks[task].order;
        let Kind::Child(at) = &mut self.tasks[task].kind else {
            return;
        };
        at.had = Some(had);
        let at = *at;
        self.tasks[task].state = State::Waiting;
        self.changed.push(task);
        let row = &mut self.children[at.child];
        row.users += 1;
        match &row.state {
            ChildState::Held(manifest) | ChildState::Made(manifest) => {
                let manifest = manifest.clone();
                self.require(task, &manifest);
            }
            ChildState::Blob => self.bring_as_blob(task, at),
            ChildState::Reading(_) => row.waiting.push(task),
            ChildState::Unread => {
                row.waiting.push(task);
                let fetch = self.add_task(Kind::Fetch(at.child), order, State::Ready);
                self.children[at.child].state = ChildState::Reading(fetch);
            }
        }
    }

    /// What a child is has become known, or could not be had.
    pub(super) fn child_read(&mut self, child: ChildId, state: ChildState) {
        self.children[child].state = state;
        let manifest = self.children[child].manifest();
        // Those who needed it may have been given up meanwhile.
        self.children[child].drop_unused();
        for task in std::mem::take(&mut self.children[child].waiting) {
            let Kind::Child(at) = self.tasks[task].kind else {
                continue;
            };
            match &manifest {
                Some(manifest) => self.require(task, manifest),
                None => self.bring_as_blob(task, at),
            }
        }
    }

    /// The bytes of a child could not be had: gives the tasks that waited for them.
    pub(super) fn child_unread(&mut self, child: ChildId) -> Vec<TaskId> {
        self.children[child].state = ChildState::Unread;
        std::mem::take(&mut self.children[child].waiting)
    }

    /// Has the next repository that names the child be asked for it; `false` where there is none.
    pub(super) fn next_child_source(&mut self, child: ChildId) -> bool {
        let row = &mut self.children[child];
        match row.others.pop() {
            Some(other) => {
                row.source = other;
                true
            }
            None => false,
        }
    }

    /// One task less needs the bytes of a child.
    pub(super) fn release_child(&mut self, child: ChildId) {
        let row = &mut self.children[child];
        row.users = row.users.saturating_sub(1);
        row.drop_unused();
    }

    /// The same where it did not get what it needed. Gives the reading that nothing waits for any more.
    pub(super) fn leave_child(&mut self, task: TaskId, child: ChildId) -> Option<TaskId> {
        self.release_child(child);
        let row = &mut self.children[child];
        row.waiting.retain(|&waiting| waiting != task);
        match row.state {
            ChildState::Reading(fetch) if row.waiting.is_empty() => {
                (!matches!(self.tasks[fetch].state, State::Running)).then_some(fetch)
            }
            _ => None,
        }
    }

    /// One task less brings a child to a place. Nothing is kept of one that nobody brings any more but what was found out
    /// by asking its source in vain, and what its source does not have.
    pub(super) fn close_child(&mut self, child: ChildId) {
        let row = &mut self.children[child];
        row.tasks = row.tasks.saturating_sub(1);
        if row.tasks == 0 && matches!(row.state, ChildState::Unread) {
            self.child_ids.remove(&row.descriptor.digest);
            self.children.free(child);
        }
    }

    fn bring_as_blob(&mut self, task: TaskId, at: ChildAt) {
        // The part of this digest at this place is the child's own task: the want stands beside it.
        let order = self.tasks[task].order;
        let descriptor = self.children[at.child].descriptor.clone();
        let want = self.want(&descriptor, at.place, at.source, order);
        self.wait_for(task, want);
    }
}
