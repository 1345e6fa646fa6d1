//! Typed indices into tables: an [`Id`] is made only by [`Arena::push`] and its row is never taken away, only given to
//! another, so looking it up cannot fail. Not here: any meaning of the rows.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// The number of a row of an `Arena<T>`.
pub(super) struct Id<T> {
    index: u32,
    row: PhantomData<fn() -> T>,
}

#[cfg(test)]
impl<T> Id<T> {
    /// The id of a row that no table has.
    pub(super) const fn of(index: u32) -> Self {
        let row = PhantomData;
        Self { index, row }
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.index.cmp(&other.index)
    }
}

impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.index.hash(state);
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.index)
    }
}

/// A table that grows as far as its rows are in use at once.
pub(super) struct Arena<T> {
    rows: Vec<T>,
    free: Vec<Id<T>>,
}

impl<T> Arena<T> {
    pub(super) const fn new() -> Self {
        Self {
            rows: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The id that the next row will get.
    pub(super) fn next_id(&self) -> Id<T> {
        self.free.last().copied().unwrap_or_else(|| Id {
            index: Self::number(self.rows.len()),
            row: PhantomData,
        })
    }

    #[expect(
        clippy::expect_used,
        reason = "four thousand million rows do not fit in memory"
    )]
    fn number(index: usize) -> u32 {
        u32::try_from(index).expect("an arena holds fewer than 2^32 rows")
    }

    /// Adds a row, or fills one that is free.
    pub(super) fn push(&mut self, row: T) -> Id<T> {
        let id = self.next_id();
        match self.free.pop() {
            Some(id) => self[id] = row,
            None => self.rows.push(row),
        }
        id
    }

    /// Gives a row away: nobody knows its id any more.
    pub(super) fn free(&mut self, id: Id<T>) {
        self.free.push(id);
    }

    /// The ids of all rows, in a table of which none is freed: oldest first. The iterator does not borrow it.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id<T>> + use<T> {
        (0..Self::number(self.rows.len())).map(|index| Id {
            index,
            row: PhantomData,
        })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.rows.iter_mut()
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "ids are made by push and rows are never removed"
)]
impl<T> Index<Id<T>> for Arena<T> {
    type Output = T;

    fn index(&self, id: Id<T>) -> &T {
        &self.rows[id.index as usize]
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "ids are made by push and rows are never removed"
)]
impl<T> IndexMut<Id<T>> for Arena<T> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        &mut self.rows[id.index as usize]
    }
}
