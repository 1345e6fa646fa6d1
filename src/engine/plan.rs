//! When rules become images, and when each image may begin: the rules of one source repository go together, after those
//! that write there, and an image that another rule feeds waits for it. Not here: what a rule comes to (`form.rs`), the
//! queues in which images wait (`admission.rs`), and what happens to an admitted image (`image.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use super::admission::{Admission, Entry};
use super::dates::Date;
use super::dry::preview;
use super::gauge::Counts;
use super::graph::Graph;
use super::image::{ImageId, Outcome, Target, TargetState};
use super::namespaces::Namespace;
use super::places::{HostId, PlaceId, Tags};
use super::task::Failure;
use crate::config::{Rule, Selection, TagFilter};
use crate::oci::{PlatformFilter, Reference, Tag};
use crate::store::Stores;

pub(super) struct Plan {
    /// Those of the file, and behind them those that the namespaces among them stand for.
    pub(super) rules: Vec<Arc<Rule>>,
    pub(super) states: Vec<RuleState>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) groups: Vec<Group>,
    group_of: HashMap<PlaceId, usize>,
    /// The rules that write to a place, in the order of the file.
    pub(super) writers: HashMap<PlaceId, Vec<usize>>,
    /// Which image a name at a target belongs to.
    pub(super) claims: HashMap<(PlaceId, Reference), Claim>,
    /// Images that are there because they are about others.
    pub(super) referrers: HashMap<(PlaceId, Reference), ImageId>,
    /// Images whose source is a target that is not in sync yet.
    fed: HashMap<(ImageId, usize), Vec<ImageId>>,
    /// Images of rules that were formed before all that their source waits for.
    out_of_turn: Vec<ImageId>,
    pub(super) admission: Admission,
}

#[derive(Default)]
pub(super) struct RuleState {
    /// Where it stands in the file: at its own number, or at that of the rule for its namespace.
    pub(super) order: usize,
    targets: Vec<PlaceId>,
    /// Its images are known, or the rules that it stands for (or it has failed for this pass).
    pub(super) is_formed: bool,
    /// Image-to-target pairs that are not settled.
    pub(super) open_pairs: usize,
    /// Why it yields no images.
    pub(super) failure: Option<Failure>,
    /// Who waits for this rule to be formed or settled.
    pub(super) blocks: Vec<Waiter>,
}

/// What waits for rules.
#[derive(Clone, Copy)]
pub(super) enum Waiter {
    /// The group of this number.
    Group(usize),
    /// The namespace of this number.
    Namespace(usize),
}

/// A reference, and which of its platforms are wanted.
type Version = (Reference, Option<Arc<PlatformFilter>>);

/// The rules of one source repository: its tags, manifests and blobs are read once for all of them.
pub(super) struct Group {
    pub(super) source: PlaceId,
    pub(super) rules: Vec<usize>,
    pub(super) images: HashMap<Version, ImageId>,
    listing: Listing,
    /// Dates of its tags that are asked for.
    open_dates: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    NotNeeded,
    Wanted,
    Queued,
    Asked,
    Known,
}

#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) image: ImageId,
    pub(super) index: usize,
}

impl Plan {
    pub(super) fn new(rules: &[Rule], graph: &mut Graph<'_>, stores: &dyn Stores) -> Self {
        let mut plan = Self {
            rules: Vec::new(),
            states: Vec::new(),
            namespaces: Vec::new(),
            groups: Vec::new(),
            group_of: HashMap::new(),
            writers: HashMap::new(),
            claims: HashMap::new(),
            referrers: HashMap::new(),
            fed: HashMap::new(),
            out_of_turn: Vec::new(),
            admission: Admission::default(),
        };
        for (order, rule) in rules.iter().enumerate() {
            plan.add_rule(rule.clone(), order, graph);
        }
        for namespace in 0..plan.namespaces.len() {
            plan.examine_namespace(namespace, graph);
        }
        for group in 0..plan.groups.len() {
            plan.examine(group, graph, stores);
        }
        plan
    }

    /// Takes in a rule, and gives the number of its group, if it is not one for a namespace.
    pub(super) fn add_rule(
        &mut self,
        rule: Rule,
        order: usize,
        graph: &mut Graph<'_>,
    ) -> Option<usize> {
        let number = self.rules.len();
        graph.counts.unread_rules += 1;
        if graph.is_dry {
            graph.previews.push(preview(&rule));
        }
        let source = graph.place(&rule.source);
        let mut state = RuleState {
            order,
            ..RuleState::default()
        };
        if rule.levels.is_some() {
            self.rules.push(Arc::new(rule));
            self.states.push(state);
            self.namespaces.push(Namespace::new(number, source));
            return None;
        }
        let targets = rule.targets.iter().map(|target| graph.place(&target.place));
        state.targets = targets.collect();
        for &target in &state.targets {
            let writers = self.writers.entry(target).or_default();
            if writers.last() != Some(&number) {
                writers.push(number);
            }
        }
        self.states.push(state);
        let groups = &mut self.groups;
        let at = *self.group_of.entry(source).or_insert_with(|| {
            groups.push(Group {
                source,
                rules: Vec::new(),
                images: HashMap::new(),
                listing: Listing::NotNeeded,
                open_dates: 0,
            });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(at) {
            group.rules.push(number);
            let is_listed = matches!(rule.selection, Selection::Listed(_));
            if is_listed && group.listing == Listing::NotNeeded {
                group.listing = Listing::Wanted;
            }
        }
        self.rules.push(Arc::new(rule));
        Some(at)
    }

    /// Moves a group on as far as it can go now: to its listing, or to its images.
    pub(super) fn examine(&mut self, number: usize, graph: &mut Graph<'_>, stores: &dyn Stores) {
        let Some(group) = self.groups.get(number) else {
            return;
        };
        match group.listing {
            Listing::Wanted => {
                if !self.wait_for_writers(number, graph, RuleState::is_settled) {
                    self.queue_listing(number, graph);
                }
            }
            Listing::NotNeeded | Listing::Known => {
                if !self.wait_for_dates(number, graph)
                    && !self.wait_for_earlier_rules(number, graph)
                    && !self.wait_for_writers(number, graph, |state| state.is_formed)
                {
                    self.form(number, graph, stores);
                }
            }
            Listing::Queued | Listing::Asked => {}
        }
    }

    /// Whether a group must wait for another rule that writes to its source.
    fn wait_for_writers(
        &mut self,
        number: usize,
        graph: &Graph<'_>,
        is_over: impl Fn(&RuleState) -> bool,
    ) -> bool {
        let Some(group) = self.groups.get(number) else {
            return false;
        };
        let writers = self
            .writers
            .get(&group.source)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let blocker = writers.iter().copied().find(|writer| {
            !group.rules.contains(writer)
                && self
                    .states
                    .get(*writer)
                    .is_some_and(|state| !is_over(state))
        });
        let source = &graph.places[group.source].place;
        let blocker = blocker.or_else(|| self.unknown_writer(source));
        self.block(blocker, Waiter::Group(number))
    }

    /// Whether a group must wait for an earlier rule with the same target repository, so that of two rules for one tag
    /// the later in the file fails.
    fn wait_for_earlier_rules(&mut self, number: usize, graph: &Graph<'_>) -> bool {
        let Some(group) = self.groups.get(number) else {
            return false;
        };
        let open = |number: usize| self.states.get(number).filter(|state| !state.is_formed);
        let mut blocker = None;
        for state in group.rules.iter().filter_map(|&rule| self.states.get(rule)) {
            for target in &state.targets {
                let is_earlier =
                    |writer: usize| open(writer).is_some_and(|w| w.order < state.order);
                let mut writers = self.writers.get(target).into_iter().flatten().copied();
                let place = &graph.places[*target].place;
                blocker = blocker
                    .or_else(|| {
                        writers.find(|writer| !group.rules.contains(writer) && is_earlier(*writer))
                    })
                    .or_else(|| self.unknown_writer(place).filter(|rule| is_earlier(*rule)));
            }
        }
        self.block(blocker, Waiter::Group(number))
    }

    pub(super) fn block(&mut self, blocker: Option<usize>, waiter: Waiter) -> bool {
        if let Some(state) = blocker.and_then(|blocker| self.states.get_mut(blocker)) {
            state.blocks.push(waiter);
        }
        blocker.is_some()
    }

    pub(super) fn unblock(&mut self, rule: usize, graph: &mut Graph<'_>, stores: &dyn Stores) {
        let blocked = self
            .states
            .get_mut(rule)
            .map(|state| std::mem::take(&mut state.blocks))
            .unwrap_or_default();
        for waiter in blocked {
            match waiter {
                Waiter::Group(group) => self.examine(group, graph, stores),
                Waiter::Namespace(namespace) => self.examine_namespace(namespace, graph),
            }
        }
    }

    fn queue_listing(&mut self, number: usize, graph: &Graph<'_>) {
        let Some(group) = self.groups.get_mut(number) else {
            return;
        };
        group.listing = Listing::Queued;
        let source = group.source;
        self.queue(number, [Entry::List(source)], graph);
    }

    /// The targets of a repository whose tags will be wanted as soon as its own are known, so that nobody need wait for
    /// them then: those of rules over all tags of which the records know none (decisions D4).
    pub(super) fn early_lists(&self, source: PlaceId, graph: &Graph<'_>) -> Vec<PlaceId> {
        let group = self.group_of.get(&source);
        let group = group.and_then(|&number| self.groups.get(number));
        let rules = group.into_iter().flat_map(|group| &group.rules);
        let rules = rules.filter_map(|&rule| Some((self.rules.get(rule)?, self.states.get(rule)?)));
        let everything = Selection::Listed(TagFilter::default());
        let lists = rules.filter(|(rule, state)| {
            rule.selection == everything && !rule.force && !state.is_formed
        });
        let targets = lists.flat_map(|(_, state)| state.targets.iter().copied());
        // What is a source too is listed when all is written there.
        let is_new = |target: &PlaceId| {
            !self.group_of.contains_key(target)
                && !graph.hints.has_tags(&graph.places[*target].place)
        };
        targets.filter(is_new).collect()
    }

    /// Has entries admitted that a group cannot be formed without.
    fn queue(
        &mut self,
        number: usize,
        entries: impl IntoIterator<Item = Entry>,
        graph: &Graph<'_>,
    ) {
        let Some(group) = self.groups.get(number) else {
            return;
        };
        let states = group.rules.iter().filter_map(|&rule| self.states.get(rule));
        let targets: Vec<HostId> = states
            .flat_map(|state| &state.targets)
            .map(|&target| graph.places[target].host)
            .collect();
        let source = graph.places[group.source].host;
        for entry in entries {
            self.admission.push(source, targets.clone(), entry);
        }
    }

    /// Whether a group must wait for dates that its rules choose by. Each is asked for once a pass.
    fn wait_for_dates(&mut self, number: usize, graph: &mut Graph<'_>) -> bool {
        let Some(group) = self.groups.get(number) else {
            return false;
        };
        let source = group.source;
        let Tags::Listed(_, tags) = &graph.places[source].tags else {
            return false;
        };
        let is_open = |rule: &&usize| self.states.get(**rule).is_some_and(|rule| !rule.is_formed);
        let rules = group.rules.iter().filter(is_open);
        let wanted: Vec<Tag> = rules
            .filter_map(|&rule| self.rules.get(rule)?.selection.dated())
            .flat_map(|filter| filter.candidates(tags))
            .cloned()
            .collect();
        let mut entries = Vec::new();
        for tag in wanted {
            let date = graph.date(source, &tag);
            let row = &mut graph.dates.rows[date];
            if matches!(row.date, Date::Unknown) {
                row.date = Date::Asked;
                entries.push(Entry::Date(date));
            }
        }
        let Some(group) = self.groups.get_mut(number) else {
            return false;
        };
        group.open_dates += entries.len();
        let must_wait = group.open_dates > 0;
        self.queue(number, entries, graph);
        must_wait
    }

    /// The date of a tag of a repository has become known, or that it cannot be had.
    pub(super) fn dated(&mut self, place: PlaceId, graph: &mut Graph<'_>, stores: &dyn Stores) {
        if let Some(&number) = self.group_of.get(&place)
            && let Some(group) = self.groups.get_mut(number)
        {
            group.open_dates = group.open_dates.saturating_sub(1);
            if group.open_dates == 0 {
                self.examine(number, graph, stores);
            }
        }
    }

    /// The tags of a repository have become known.
    pub(super) fn listed(&mut self, place: PlaceId, graph: &mut Graph<'_>, stores: &dyn Stores) {
        if let Some(&number) = self.group_of.get(&place)
            && let Some(group) = self.groups.get_mut(number)
            && group.listing == Listing::Asked
        {
            group.listing = Listing::Known;
            self.add_brought(place, graph);
            self.examine(number, graph, stores);
        }
    }

    /// Makes the images of a group's rules and has them admitted.
    fn form(&mut self, number: usize, graph: &mut Graph<'_>, stores: &dyn Stores) {
        for image in self.form_images(number, graph, stores) {
            self.offer(image, graph);
        }
        self.formed(number, graph, stores);
    }

    /// Lets those go on that waited for the rules of a group to be formed.
    fn formed(&mut self, number: usize, graph: &mut Graph<'_>, stores: &dyn Stores) {
        let group = self.groups.get(number);
        for rule in group.map_or_else(Vec::new, |group| group.rules.clone()) {
            self.unblock(rule, graph, stores);
        }
    }

    /// Puts an image in its queue, unless another image feeds it and is not in sync yet.
    pub(super) fn offer(&mut self, image: ImageId, graph: &mut Graph<'_>) {
        if let Some((feeder, index)) = self.feeder(image, graph) {
            match &graph.images[feeder].target(index).state {
                TargetState::Done(Outcome::Copied) if graph.is_dry => {
                    let feeder = &graph.images[feeder];
                    let (source, reference) = (feeder.source, feeder.reference.clone());
                    let wanted = feeder.wanted.clone();
                    graph.images[image].read_as(source, reference, wanted);
                }
                TargetState::Done(_) => {
                    if let Some(open) = self.open_referrer(image, (feeder, index), graph) {
                        return self.fed.entry(open).or_default().push(image);
                    }
                }
                TargetState::Failed { .. } => return fail_fed(image, feeder, index, graph),
                _ => return self.fed.entry((feeder, index)).or_default().push(image),
            }
        }
        let row = &graph.images[image];
        let unsettled = row
            .targets
            .iter()
            .filter(|target| !target.state.is_settled());
        let targets = unsettled
            .map(|target| graph.places[target.place].host)
            .collect();
        self.admission
            .push(graph.places[row.source].host, targets, Entry::Image(image));
    }

    /// The image and target that this image's source is.
    fn feeder(&self, image: ImageId, graph: &Graph<'_>) -> Option<(ImageId, usize)> {
        let row = &graph.images[image];
        let claim = self.claims.get(&(row.source, row.reference.clone()))?;
        (claim.image != image).then_some((claim.image, claim.index))
    }

    /// The next entry to admit.
    pub(super) fn next(&mut self, is_open: impl Fn(HostId) -> bool) -> Option<Entry> {
        let entry = self.admission.next(is_open)?;
        if let Entry::List(place) = entry
            && let Some(group) = self
                .group_of
                .get(&place)
                .and_then(|&group| self.groups.get_mut(group))
        {
            group.listing = Listing::Asked;
        }
        Some(entry)
    }

    /// How much waits for admission.
    pub(super) fn waiting(&self) -> usize {
        self.admission.len()
    }

    /// A pair has come to its end: what waited for it can go on.
    pub(super) fn settled(
        &mut self,
        image: ImageId,
        index: usize,
        graph: &mut Graph<'_>,
        stores: &dyn Stores,
    ) {
        let target = graph.images[image].target(index);
        let (rule, is_done) = (target.rule, matches!(target.state, TargetState::Done(_)));
        if is_done {
            self.add_referrers(image, index, graph);
        }
        for fed in self.fed.remove(&(image, index)).unwrap_or_default() {
            self.offer(fed, graph);
        }
        if let Some(state) = self.states.get_mut(rule) {
            state.open_pairs = state.open_pairs.saturating_sub(1);
            if state.is_settled() {
                self.unblock(rule, graph, stores);
            }
        }
    }

    /// Nothing can go on, and yet not all is done: rules wait for one another. Lets the order of the file go where that
    /// is all that they wait for; else they feed each other in a circle, and fail. Gives false if nothing was waiting.
    pub(super) fn break_circle(&mut self, graph: &mut Graph<'_>, stores: &dyn Stores) -> bool {
        let formable = |group: &Group| {
            matches!(group.listing, Listing::NotNeeded | Listing::Known)
                && group
                    .rules
                    .iter()
                    .any(|&rule| self.states.get(rule).is_some_and(|state| !state.is_formed))
        };
        if let Some(number) = self.groups.iter().position(formable) {
            // Who feeds these images may be known only when the others are formed, too.
            let images = self.form_images(number, graph, stores);
            self.out_of_turn.extend(images);
            self.formed(number, graph, stores);
            return true;
        }
        let (fed, ready): (Vec<ImageId>, Vec<ImageId>) = std::mem::take(&mut self.out_of_turn)
            .into_iter()
            .partition(|&image| self.may_be_fed(graph.images[image].source, graph));
        self.out_of_turn = fed;
        if !ready.is_empty() {
            for image in ready {
                self.offer(image, graph);
            }
            return true;
        }
        if !self.out_of_turn.is_empty() {
            let failure = Arc::new(circle());
            for image in std::mem::take(&mut self.out_of_turn) {
                graph.fail_image(image, &failure, false);
            }
            return true;
        }
        if self.break_namespaces(&circle(), graph, stores) {
            return true;
        }
        if let Some(group) = self
            .groups
            .iter_mut()
            .find(|group| group.listing == Listing::Wanted)
        {
            group.listing = Listing::Known;
            for rule in group.rules.clone() {
                if let (Some(state), Some(rule)) = (self.states.get_mut(rule), self.rules.get(rule))
                    && !state.is_formed
                    && matches!(rule.selection, Selection::Listed(_))
                {
                    state.form(Some(circle()), &mut graph.counts);
                }
            }
            return true;
        }
        let waiting: Vec<ImageId> = self.fed.drain().flat_map(|(_, images)| images).collect();
        let failure = Arc::new(circle());
        for &image in &waiting {
            graph.fail_image(image, &failure, false);
        }
        !waiting.is_empty()
    }

    /// Whether a rule writes to a place of which it is not known yet what it writes.
    fn may_be_fed(&self, place: PlaceId, graph: &Graph<'_>) -> bool {
        if self.unknown_writer(&graph.places[place].place).is_some() {
            return true;
        }
        let mut writers = self.writers.get(&place).into_iter().flatten();
        writers.any(|&writer| {
            self.states
                .get(writer)
                .is_some_and(|state| !state.is_formed)
        })
    }

    /// Readies what failed, but not for good, for another pass. Gives false where there is nothing to do.
    pub(super) fn new_pass(&mut self, graph: &mut Graph<'_>, stores: &dyn Stores) -> bool {
        let mut any = false;
        for number in 0..self.groups.len() {
            let Some(group) = self.groups.get_mut(number) else {
                continue;
            };
            let mut is_wanted = false;
            for &rule in &group.rules {
                if let Some(state) = self.states.get_mut(rule) {
                    is_wanted |= state.take_up(&mut graph.counts);
                }
            }
            if is_wanted {
                group.listing = Listing::Wanted;
                self.examine(number, graph, stores);
                any = true;
            }
        }
        any |= self.ask_namespaces_again(graph);
        let taken: Vec<ImageId> = graph
            .images
            .ids()
            .filter(|&image| graph.take_up(image))
            .collect();
        for &image in &taken {
            for target in graph.images[image]
                .targets
                .iter()
                .filter(|target| !target.state.is_settled())
            {
                if let Some(state) = self.states.get_mut(target.rule) {
                    state.open_pairs += 1;
                }
            }
        }
        any |= !taken.is_empty();
        for image in taken {
            self.offer(image, graph);
        }
        any
    }

    /// The rule that a target of an image is by; `None` where another rule has the better right to the same tag, or the
    /// image is its own target.
    pub(super) fn rule_of(&self, image: ImageId, target: &Target) -> Option<&Rule> {
        let claim = self.claims.get(&(target.place, target.name.clone()));
        let is_right =
            claim.is_some_and(|claim| claim.image == image || target.name.tag().is_none());
        let rule = self.rules.get(target.rule).filter(|_| is_right);
        rule.map(|rule| &**rule)
    }

    /// The rules that yielded no images, with their numbers and the reason; none where the run ended before they were
    /// looked at.
    pub(super) fn failures(&self) -> impl Iterator<Item = (usize, &Rule, Option<&Failure>)> {
        let pairs = self.rules.iter().zip(&self.states).enumerate();
        let failed = pairs.filter(|(_, (_, state))| state.failure.is_some() || !state.is_formed);
        failed.map(|(number, (rule, state))| (number, &**rule, state.failure.as_ref()))
    }
}

impl RuleState {
    /// Notes that its images are known, or why there are none.
    pub(super) fn form(&mut self, failure: Option<Failure>, counts: &mut Counts) {
        self.is_formed = true;
        self.failure = failure;
        counts.unread_rules -= 1;
    }

    /// In another pass: whether it is to be formed again.
    pub(super) fn take_up(&mut self, counts: &mut Counts) -> bool {
        let is_passing = |failure: &Failure| !failure.is_final;
        if !self.failure.as_ref().is_some_and(is_passing) {
            return false;
        }
        self.is_formed = false;
        self.failure = None;
        counts.unread_rules += 1;
        true
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_formed && self.open_pairs == 0
    }
}

fn circle() -> Failure {
    Failure::for_good(
        "order the rules",
        "rules feed each other in a circle: the target of each is the source of the next",
    )
}

/// The image that another one was to bring is not there: it is skipped, and taken up in the next pass.
fn fail_fed(image: ImageId, feeder: ImageId, index: usize, graph: &mut Graph<'_>) {
    let failure = Failure {
        operation: format!("copy {}", graph.image_source(image)),
        cause: format!(
            "{} was not brought up to date from {}, which another rule asks for",
            graph.image_target(feeder, index),
            graph.image_source(feeder)
        ),
        is_final: false,
        not_found: false,
    };
    graph.fail_image(image, &Arc::new(failure), false);
}
