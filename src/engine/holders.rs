//! Where the blobs and children of a run are, by what it did and saw. Of all that was copied this is kept to the end of
//! the run, so it is small: most of them are at one place. Not here: what is on its way (`parts.rs`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::arena::{Arena, Id};
use super::places::PlaceId;
use crate::oci::Digest;

pub(super) struct Holders {
    held: HashMap<Digest, Held>,
    many: Arena<BTreeSet<PlaceId>>,
}

enum Held {
    ByOne(PlaceId),
    ByMany(Id<BTreeSet<PlaceId>>),
}

impl Holders {
    pub(super) fn new() -> Self {
        Self {
            held: HashMap::new(),
            many: Arena::new(),
        }
    }

    /// Whether a place has the content of this digest.
    pub(super) fn has(&self, place: PlaceId, digest: &Digest) -> bool {
        match self.held.get(digest) {
            Some(Held::ByOne(holder)) => *holder == place,
            Some(Held::ByMany(many)) => self.many[*many].contains(&place),
            None => false,
        }
    }

    /// The places that have it.
    pub(super) fn of(&self, digest: &Digest) -> impl Iterator<Item = PlaceId> {
        let (one, many) = match self.held.get(digest) {
            Some(Held::ByOne(holder)) => (Some(*holder), None),
            Some(Held::ByMany(many)) => (None, Some(&self.many[*many])),
            None => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }

    pub(super) fn add(&mut self, place: PlaceId, digest: &Digest) {
        match self.held.entry(digest.clone()) {
            Entry::Vacant(new) => {
                new.insert(Held::ByOne(place));
            }
            Entry::Occupied(mut held) => match held.get() {
                Held::ByOne(holder) => {
                    let both = self.many.push(BTreeSet::from([*holder, place]));
                    held.insert(Held::ByMany(both));
                }
                Held::ByMany(many) => {
                    self.many[*many].insert(place);
                }
            },
        }
    }

    /// The place does not have it after all.
    pub(super) fn remove(&mut self, place: PlaceId, digest: &Digest) {
        match self.held.get(digest) {
            Some(Held::ByOne(holder)) if *holder == place => {
                self.held.remove(digest);
            }
            Some(Held::ByMany(many)) => {
                self.many[*many].remove(&place);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn each_place_is_told_once_until_it_is_removed() {
        let mut holders = Holders::new();
        let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let (blob, other) = (digest("blob"), digest("other"));
        let told = |holders: &Holders| holders.of(&blob).collect::<Vec<_>>();
        let [first, second, third] = [1, 2, 3].map(Id::of);
        assert_eq!(told(&holders), []);
        holders.remove(first, &blob);
        for place in [second, second, first, third, first] {
            holders.add(place, &blob);
            holders.add(first, &other);
            assert!(holders.has(place, &blob));
        }
        assert_eq!(told(&holders), [first, second, third]);
        for (place, left) in [
            (second, vec![first, third]),
            (second, vec![first, third]),
            (first, vec![third]),
            (third, vec![]),
        ] {
            holders.remove(place, &blob);
            assert!(!holders.has(place, &blob));
            assert_eq!(told(&holders), left);
        }
        holders.remove(second, &other);
        assert!(holders.has(first, &other));
        holders.remove(first, &other);
        assert!(!holders.has(first, &other));
    }
}
