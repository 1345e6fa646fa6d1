//! Rules for namespaces: each stands for a rule for each repository that the registry lists. It is known what it writes
//! only when those are known, so rules that could be concerned wait for that; and it lists when all is there that other
//! rules bring. Not here: what becomes of a rule then (`plan.rs`).

use std::sync::Arc;

use super::admission::Entry;
use super::graph::Graph;
use super::places::{HostId, PlaceId};
use super::plan::{Listing, Plan, RuleState, Waiter};
use super::task::Failure;
use crate::config::Rule;
use crate::oci::Repository;
use crate::store::{Place, Stores};

/// A rule for a namespace.
pub(super) struct Namespace {
    rule: usize,
    source: PlaceId,
    listing: Listing,
}

impl Namespace {
    pub(super) fn new(rule: usize, source: PlaceId) -> Self {
        Self {
            rule,
            source,
            listing: Listing::Wanted,
        }
    }
}

impl Plan {
    /// Has the repositories of a namespace listed, if nothing is still to come there.
    pub(super) fn examine_namespace(&mut self, number: usize, graph: &mut Graph<'_>) {
        let Some(namespace) = self.namespaces.get(number) else {
            return;
        };
        if namespace.listing != Listing::Wanted {
            return;
        }
        let (own, source) = (namespace.rule, namespace.source);
        let place = &graph.places[source].place;
        let is_open = |rule: &usize, is_over: fn(&RuleState) -> bool| {
            *rule != own && self.states.get(*rule).is_some_and(|state| !is_over(state))
        };
        let written = self.writers.iter();
        let mut written =
            written.filter(|(target, _)| graph.places[**target].place.is_below(place));
        let blocker = written
            .find_map(|(_, rules)| {
                rules
                    .iter()
                    .find(|rule| is_open(rule, RuleState::is_settled))
            })
            .copied()
            .or_else(|| {
                let mut rules = self.namespaces.iter().map(|other| other.rule);
                rules.find(|rule| {
                    is_open(rule, |state| state.is_formed) && self.writes_near(*rule, place)
                })
            });
        if self.block(blocker, Waiter::Namespace(number)) {
            return;
        }
        let mut hosts: Vec<HostId> = Vec::new();
        for target in self.targets_of(own) {
            let target = graph.place(target);
            hosts.push(graph.places[target].host);
        }
        // One list for all rules for this namespace that can go now.
        let is_under_way =
            |other: &Namespace| other.source == source && other.listing == Listing::Queued;
        if !self.namespaces.iter().any(is_under_way) {
            let host = graph.places[source].host;
            self.admission.push(host, hosts, Entry::Catalog(source));
        }
        if let Some(namespace) = self.namespaces.get_mut(number) {
            namespace.listing = Listing::Queued;
        }
    }

    /// A rule for a namespace that may write to `place`: it is not known yet what it writes.
    pub(super) fn unknown_writer(&self, place: &Place) -> Option<usize> {
        let mut rules = self.namespaces.iter().map(|namespace| namespace.rule);
        rules.find(|&rule| {
            let is_open = self.states.get(rule).is_some_and(|state| !state.is_formed);
            let mut targets = self.targets_of(rule);
            is_open && targets.any(|target| place.is_below(target))
        })
    }

    /// Whether a rule for a namespace may write something below `place`.
    fn writes_near(&self, rule: usize, place: &Place) -> bool {
        self.targets_of(rule)
            .any(|target| target == place || target.is_below(place) || place.is_below(target))
    }

    fn targets_of(&self, rule: usize) -> impl Iterator<Item = &Place> {
        let targets = self
            .rules
            .get(rule)
            .into_iter()
            .flat_map(|rule| &rule.targets);
        targets.map(|target| &target.place)
    }

    /// The repositories of a registry have become known, or that they cannot be had.
    pub(super) fn cataloged(
        &mut self,
        source: PlaceId,
        repositories: &Result<Vec<Repository>, Arc<Failure>>,
        graph: &mut Graph<'_>,
        stores: &dyn Stores,
    ) {
        let mut formed = Vec::new();
        let mut groups = Vec::new();
        for number in 0..self.namespaces.len() {
            let Some(namespace) = self.namespaces.get_mut(number) else {
                continue;
            };
            if namespace.source != source || namespace.listing != Listing::Queued {
                continue;
            }
            namespace.listing = Listing::Known;
            let rule = namespace.rule;
            let failure = match repositories {
                Ok(repositories) => self.spread(rule, repositories, graph, &mut groups).err(),
                Err(failure) => Some(Failure::clone(failure)),
            };
            if let Some(state) = self.states.get_mut(rule) {
                state.form(failure, &mut graph.counts);
            }
            formed.push(rule);
        }
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            self.examine(group, graph, stores);
        }
        for rule in formed {
            self.unblock(rule, graph, stores);
        }
    }

    /// Takes in the rules that one for a namespace stands for, and collects their groups.
    fn spread(
        &mut self,
        number: usize,
        repositories: &[Repository],
        graph: &mut Graph<'_>,
        groups: &mut Vec<usize>,
    ) -> Result<(), Failure> {
        let (Some(rule), Some(state)) = (self.rules.get(number), self.states.get(number)) else {
            return Ok(());
        };
        let (rule, order) = (rule.clone(), state.order);
        let failure = |cause: String| {
            Failure::for_good(
                format!("find the repositories below {}", rule.source),
                cause,
            )
        };
        let rules = repositories.iter();
        let rules: Result<Vec<Rule>, _> =
            rules.filter_map(|one| rule.for_repository(one)).collect();
        let rules = rules.map_err(|error| failure(format!("the name of a target: {error}")))?;
        if rules.is_empty() {
            let all = repositories.len();
            return Err(failure(format!(
                "none of the {all} that the registry lists is there"
            )));
        }
        log::info!("{}: {} repositories", rule.source, rules.len());
        let added = rules.into_iter();
        groups.extend(added.filter_map(|rule| self.add_rule(rule, order, graph)));
        Ok(())
    }

    /// Fails the rules for namespaces that wait for ever, and lets those go on that wait for them; `false` where there
    /// are none.
    pub(super) fn break_namespaces(
        &mut self,
        failure: &Failure,
        graph: &mut Graph<'_>,
        stores: &dyn Stores,
    ) -> bool {
        let mut broken = Vec::new();
        for namespace in &mut self.namespaces {
            if namespace.listing == Listing::Wanted {
                namespace.listing = Listing::Known;
                broken.push(namespace.rule);
            }
        }
        for &rule in &broken {
            if let Some(state) = self.states.get_mut(rule) {
                state.form(Some(failure.clone()), &mut graph.counts);
            }
        }
        for &rule in &broken {
            self.unblock(rule, graph, stores);
        }
        !broken.is_empty()
    }

    /// In another pass: has those listed again that could not be. What they stand for comes late then, so that of two
    /// rules for one tag it is the one that fails, whatever the order in the file.
    pub(super) fn ask_namespaces_again(&mut self, graph: &mut Graph<'_>) -> bool {
        let mut again = Vec::new();
        for (number, namespace) in self.namespaces.iter_mut().enumerate() {
            if let Some(state) = self.states.get_mut(namespace.rule)
                && state.take_up(&mut graph.counts)
            {
                namespace.listing = Listing::Wanted;
                again.push(number);
            }
        }
        for &number in &again {
            self.examine_namespace(number, graph);
        }
        !again.is_empty()
    }
}
