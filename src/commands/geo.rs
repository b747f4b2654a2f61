//! Geospatial indices: sorted sets whose scores are [geohashes](super::geohash).

use super::Context;
use super::arguments::{integer, is_option};
use super::collection::{Collection, Direction};
use super::geohash::{self, Coordinates, LATITUDES, LONGITUDES, STEPS_MAX, Shape, coordinates_of_score};
use super::sorted_sets::members::{AddOptions, add_members};
use super::sorted_sets::{Entry, Stretch, store_sorted_set};
use super::steps::{Steps, members_at_once_max, members_per_step};
use crate::error::CommandError;
use crate::number::parse_double;
use crate::protocol::{Arguments, Reply};
use crate::storage::encoding::{ordered_score, score_key};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

fn float(argument: &[u8]) -> Result<f64, CommandError> {
    parse_double(argument).ok_or(CommandError::NotAFloat)
}

/// The coordinates that two arguments name, in degrees.
fn parse_coordinates(longitude: &[u8], latitude: &[u8]) -> Result<Coordinates, CommandError> {
    let coordinates = Coordinates {
        longitude: float(longitude)?,
        latitude: float(latitude)?,
    };
    let Coordinates { longitude, latitude } = coordinates;
    let is_valid =
        (LONGITUDES.min..=LONGITUDES.max).contains(&longitude) && (LATITUDES.min..=LATITUDES.max).contains(&latitude);
    match is_valid {
        true => Ok(coordinates),
        false => Err(CommandError::text(format!(
            "ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}"
        ))),
    }
}

/// The meters of a unit.
fn parse_unit(argument: &[u8]) -> Result<f64, CommandError> {
    match argument {
        _ if is_option(argument, "M") => Ok(1.0),
        _ if is_option(argument, "KM") => Ok(1000.0),
        _ if is_option(argument, "FT") => Ok(0.3048),
        _ if is_option(argument, "MI") => Ok(1609.34),
        _ => Err(CommandError::text(
            "ERR unsupported unit provided. please use M, KM, FT, MI",
        )),
    }
}

/// GEOADD key [NX | XX] [CH] longitude latitude member [longitude latitude member …]
pub fn geoadd(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut options = AddOptions::default();
    let mut first = 2;
    for argument in arguments.iter().skip(2) {
        match argument {
            _ if is_option(argument, "NX") => options.if_absent = true,
            _ if is_option(argument, "XX") => options.if_present = true,
            _ if is_option(argument, "CH") => options.count_changed = true,
            _ => break,
        }
        first += 1;
    }
    let triples = arguments.from(first);
    if triples.is_empty() || !triples.len().is_multiple_of(3) || options.if_absent && options.if_present {
        return Err(CommandError::Syntax);
    }
    let mut pairs = Vec::with_capacity(triples.len() / 3);
    for at in (0..triples.len()).step_by(3) {
        let coordinates = parse_coordinates(triples.get(at), triples.get(at + 1))?;
        let score = geohash::encode(coordinates, LATITUDES, STEPS_MAX) as f64;
        pairs.push((score, triples.get(at + 2)));
    }
    add_members(context, options, &pairs)
}

/// The coordinates of members, `None` for those that are not there.
fn coordinates_of(context: &mut Context<'_>, members: Arguments<'_>) -> Result<Vec<Option<Coordinates>>, CommandError> {
    let Some(set) = context.sorted_set(context.arguments.get(1))? else {
        return Ok(vec![None; members.len()]);
    };
    let scores = members.iter().map(|member| context.score(&set, member));
    scores.map(|score| Ok(score?.map(coordinates_of_score))).collect()
}

/// GEOPOS key [member …]
pub fn geopos(context: &mut Context<'_>) -> Outcome {
    let found = coordinates_of(context, context.arguments.from(2))?;
    context.reply.array(found.len());
    for coordinates in found {
        match coordinates {
            Some(coordinates) => reply_coordinates(&mut context.reply, coordinates),
            None => context.reply.null_array(),
        }
    }
    Ok(())
}

/// Coordinates as two doubles with all of their decimals, up to 17.
fn reply_coordinates(reply: &mut Reply<'_>, coordinates: Coordinates) {
    reply.array(2);
    for degrees in [coordinates.longitude, coordinates.latitude] {
        let text = format!("{degrees:.17}");
        reply.decimal(text.trim_end_matches('0').trim_end_matches('.'));
    }
}

/// GEOHASH key [member …]
pub fn geohash(context: &mut Context<'_>) -> Outcome {
    let found = coordinates_of(context, context.arguments.from(2))?;
    context.reply.array(found.len());
    for coordinates in found {
        match coordinates {
            Some(coordinates) => context.reply.bulk(&geohash::text(coordinates)),
            None => context.reply.null(),
        }
    }
    Ok(())
}

/// GEODIST key member1 member2 [M | KM | FT | MI]
pub fn geodist(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let unit = match arguments.len() {
        4 => 1.0,
        5 => parse_unit(arguments.get(4))?,
        _ => return Err(CommandError::Syntax),
    };
    let Some(set) = context.sorted_set(arguments.get(1))? else {
        context.reply.null();
        return Ok(());
    };
    let first = context.score(&set, arguments.get(2))?;
    let second = context.score(&set, arguments.get(3))?;
    match (first, second) {
        (Some(first), Some(second)) => {
            let meters = geohash::distance_meters(coordinates_of_score(first), coordinates_of_score(second));
            reply_distance(&mut context.reply, meters / unit);
        }
        _ => context.reply.null(),
    }
    Ok(())
}

/// A distance with four decimals; a string in RESP3 too.
fn reply_distance(reply: &mut Reply<'_>, distance: f64) {
    let tenths_of_thousandths = (distance * 10_000.0).round_ties_even() as u64;
    reply.text(&format!(
        "{}.{:04}",
        tenths_of_thousandths / 10_000,
        tenths_of_thousandths % 10_000
    ));
}

/// Which of the commands searches, as far as its arguments differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// GEORADIUS: longitude, latitude, radius and unit come first. `stores`: STORE and STOREDIST are options.
    Radius { stores: bool },
    /// GEORADIUSBYMEMBER: a member, radius and unit come first.
    RadiusByMember { stores: bool },
    /// GEOSEARCH: options say all.
    Search,
    /// GEOSEARCHSTORE: the same, behind a destination.
    SearchStore,
}

/// What a search was asked for.
#[derive(Default)]
struct Search {
    center: Option<Coordinates>,
    /// FROMMEMBER or FROMLONLAT was given.
    has_center: bool,
    by_member: bool,
    shape: Option<Shape>,
    /// Meters of the unit that distances are answered in.
    unit: f64,
    with_distance: bool,
    with_hash: bool,
    with_coordinates: bool,
    /// COUNT; 0 for all.
    count: usize,
    any: bool,
    order: Option<Direction>,
    destination: Option<Vec<u8>>,
    store_distances: bool,
}

/// A member that was found.
struct Found {
    entry: Entry,
    coordinates: Coordinates,
    distance_meters: f64,
}

/// GEORADIUS key longitude latitude radius M | KM | FT | MI [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]]
/// [ASC | DESC] [STORE key | STOREDIST key]
pub fn georadius(context: &mut Context<'_>) -> Outcome {
    search_generic(context, Kind::Radius { stores: true })
}

/// GEORADIUS_RO: GEORADIUS without STORE and STOREDIST
pub fn georadius_ro(context: &mut Context<'_>) -> Outcome {
    search_generic(context, Kind::Radius { stores: false })
}

/// GEORADIUSBYMEMBER key member radius M | KM | FT | MI, and the options of GEORADIUS
pub fn georadiusbymember(context: &mut Context<'_>) -> Outcome {
    search_generic(context, Kind::RadiusByMember { stores: true })
}

/// GEORADIUSBYMEMBER_RO: GEORADIUSBYMEMBER without STORE and STOREDIST
pub fn georadiusbymember_ro(context: &mut Context<'_>) -> Outcome {
    search_generic(context, Kind::RadiusByMember { stores: false })
}

/// GEOSEARCH key FROMMEMBER member | FROMLONLAT longitude latitude BYRADIUS radius unit | BYBOX width height unit
/// [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]
pub fn geosearch(context: &mut Context<'_>) -> Outcome {
    search_generic(context, Kind::Search)
}

/// GEOSEARCHSTORE destination source, and the options of GEOSEARCH, with STOREDIST in place of what is to be returned
pub fn geosearchstore(context: &mut Context<'_>) -> Outcome {
    search_generic(context, Kind::SearchStore)
}

/// GEORADIUS, GEORADIUSBYMEMBER, their read-only forms, GEOSEARCH and GEOSEARCHSTORE.
fn search_generic(context: &mut Context<'_>, kind: Kind) -> Outcome {
    let arguments = context.arguments;
    let source = if kind == Kind::SearchStore { 2 } else { 1 };
    let set = context.reading(|context| context.sorted_set(arguments.get(source)))?;
    let search = Search::parse(context, set.as_ref(), kind)?;
    let mut walk = search.begin()?;
    let mut members = 0;
    if let Some(set) = &set {
        let at_once = match context.may_take_steps {
            true => members_at_once_max(),
            false => u64::MAX,
        };
        walk.go_on(context, set, at_once)?;
        members = match walk.is_over() {
            true => walk.found.len() as u64,
            false => set.count,
        };
    }
    if walk.is_over() && search.destination.is_none() {
        let mut found = walk.found;
        if let Some(order) = search.found_order() {
            found.sort_by(|a, b| compare_distances(order, a, b));
        }
        found.truncate(search.count_max());
        context.reply.array(found.len());
        found.iter().for_each(|found| search.reply(&mut context.reply, found));
        return Ok(());
    }
    let event = match kind {
        Kind::SearchStore => "geosearchstore",
        _ => "georadiusstore",
    };
    let writes = search.destination.iter().map(|key| (context.database, key.clone()));
    context.in_steps((members, writes.collect()), |steps| {
        search.finish(steps, (set, walk), event)
    })
}

/// The coordinates of the member that a search begins at.
fn member_coordinates(context: &mut Context<'_>, set: &Collection, member: &[u8]) -> Result<Coordinates, CommandError> {
    let score = context.score(set, member)?;
    let unknown = || CommandError::text("ERR could not decode requested zset member");
    score.map(coordinates_of_score).ok_or_else(unknown)
}

/// A size that is not negative.
fn parse_size(argument: &[u8], not_a_number: &'static str) -> Result<f64, CommandError> {
    parse_double(argument).ok_or(CommandError::text(not_a_number))
}

impl Search {
    fn parse(context: &mut Context<'_>, set: Option<&Collection>, kind: Kind) -> Result<Search, CommandError> {
        let arguments = context.arguments;
        let mut search = Search {
            unit: 1.0,
            ..Search::default()
        };
        let first_option = match kind {
            Kind::Radius { .. } => {
                search.center = Some(parse_coordinates(arguments.get(2), arguments.get(3))?);
                search.parse_circle(arguments.get(4), arguments.get(5))?;
                6
            }
            Kind::RadiusByMember { .. } => {
                if let Some(set) = set {
                    search.center = Some(member_coordinates(context, set, arguments.get(2))?);
                    search.parse_circle(arguments.get(3), arguments.get(4))?;
                }
                5
            }
            Kind::Search => 2,
            Kind::SearchStore => {
                search.destination = Some(arguments.get(1).to_vec());
                3
            }
        };
        let mut rest = arguments.from(first_option);
        while !rest.is_empty() {
            let taken = match search.parse_output(rest)? {
                0 => search.parse_destination(rest, kind),
                taken => taken,
            };
            let taken = match taken {
                0 if matches!(kind, Kind::Search | Kind::SearchStore) => search.parse_area(context, set, rest)?,
                taken => taken,
            };
            if taken == 0 {
                return Err(CommandError::Syntax);
            }
            rest = rest.from(taken);
        }
        search.check(kind, arguments.get(0))?;
        Ok(search)
    }

    /// Options about what is returned. All of these return how many arguments the option takes, 0 if it is another one.
    fn parse_output(&mut self, rest: Arguments<'_>) -> Result<usize, CommandError> {
        let option = rest.get(0);
        match option {
            _ if is_option(option, "WITHDIST") => self.with_distance = true,
            _ if is_option(option, "WITHHASH") => self.with_hash = true,
            _ if is_option(option, "WITHCOORD") => self.with_coordinates = true,
            _ if is_option(option, "ANY") => self.any = true,
            _ if is_option(option, "ASC") => self.order = Some(Direction::Forward),
            _ if is_option(option, "DESC") => self.order = Some(Direction::Backward),
            _ if is_option(option, "COUNT") && rest.len() > 1 => {
                let count = usize::try_from(integer(rest.get(1))?).ok().filter(|count| *count > 0);
                self.count = count.ok_or(CommandError::text("ERR COUNT must be > 0"))?;
                return Ok(2);
            }
            _ => return Ok(0),
        }
        Ok(1)
    }

    fn parse_destination(&mut self, rest: Arguments<'_>, kind: Kind) -> usize {
        let option = rest.get(0);
        let distances = is_option(option, "STOREDIST");
        match kind {
            Kind::SearchStore if distances => {
                self.store_distances = true;
                1
            }
            Kind::Radius { stores: true } | Kind::RadiusByMember { stores: true }
                if rest.len() > 1 && (distances || is_option(option, "STORE")) =>
            {
                self.destination = Some(rest.get(1).to_vec());
                self.store_distances = distances;
                2
            }
            _ => 0,
        }
    }

    /// Options about where to search.
    fn parse_area(
        &mut self,
        context: &mut Context<'_>,
        set: Option<&Collection>,
        rest: Arguments<'_>,
    ) -> Result<usize, CommandError> {
        let (option, values) = (rest.get(0), rest.len() - 1);
        if is_option(option, "FROMMEMBER") && values >= 1 && (!self.has_center || self.by_member) {
            if let Some(set) = set {
                self.center = Some(member_coordinates(context, set, rest.get(1))?);
            }
            (self.has_center, self.by_member) = (true, true);
            Ok(2)
        } else if is_option(option, "FROMLONLAT") && values >= 2 && !self.by_member {
            self.center = Some(parse_coordinates(rest.get(1), rest.get(2))?);
            self.has_center = true;
            Ok(3)
        } else if is_option(option, "BYRADIUS") && values >= 2 && !matches!(self.shape, Some(Shape::Box { .. })) {
            self.parse_circle(rest.get(1), rest.get(2))?;
            Ok(3)
        } else if is_option(option, "BYBOX") && values >= 3 && !matches!(self.shape, Some(Shape::Circle { .. })) {
            self.parse_box(rest.get(1), rest.get(2), rest.get(3))?;
            Ok(4)
        } else {
            Ok(0)
        }
    }

    fn parse_circle(&mut self, radius: &[u8], unit: &[u8]) -> Outcome {
        let radius = parse_size(radius, "ERR need numeric radius")?;
        if radius < 0.0 {
            return Err(CommandError::text("ERR radius cannot be negative"));
        }
        self.unit = parse_unit(unit)?;
        self.shape = Some(Shape::Circle {
            radius: radius * self.unit,
        });
        Ok(())
    }

    fn parse_box(&mut self, width: &[u8], height: &[u8], unit: &[u8]) -> Outcome {
        let width = parse_size(width, "ERR need numeric width")?;
        let height = parse_size(height, "ERR need numeric height")?;
        if width < 0.0 || height < 0.0 {
            return Err(CommandError::text("ERR height or width cannot be negative"));
        }
        self.unit = parse_unit(unit)?;
        self.shape = Some(Shape::Box {
            width: width * self.unit,
            height: height * self.unit,
        });
        Ok(())
    }

    /// Checks the options together; `name` is the command's as the client wrote it.
    fn check(&self, kind: Kind, name: &[u8]) -> Outcome {
        let searches = matches!(kind, Kind::Search | Kind::SearchStore);
        let name = CommandError::quoted(name);
        let returns_more = self.with_distance || self.with_hash || self.with_coordinates;
        if self.destination.is_some() && returns_more {
            let what = match kind {
                Kind::SearchStore => "GEOSEARCHSTORE",
                _ => "STORE option in GEORADIUS",
            };
            let text = format!("ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options");
            return Err(CommandError::text(text));
        }
        let missing = if searches && !self.has_center {
            format!("ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}")
        } else if searches && self.shape.is_none() {
            format!("ERR exactly one of BYRADIUS and BYBOX can be specified for {name}")
        } else if self.any && self.count == 0 {
            "ERR the ANY argument requires COUNT argument".to_owned()
        } else {
            return Ok(());
        };
        Err(CommandError::text(missing))
    }

    /// Begins to look for the members that lie in the area. Of a key that is not there nothing is known of the area.
    fn begin(&self) -> Result<Walk, CommandError> {
        let (Some(center), Some(shape)) = (self.center, self.shape) else {
            return Ok(Walk::default());
        };
        let key = |score: f64| score_key(ordered_score(score), b"");
        let ranges = shape.score_ranges(center).into_iter();
        Ok(Walk {
            area: Some((center, shape)),
            ranges: ranges.map(|(from, to)| (key(from), key(to))).collect(),
            found: Vec::new(),
            enough: if self.any { self.count } else { usize::MAX },
        })
    }

    /// The order of what is found: the nearest ones are meant by a COUNT, unless ANY will do.
    fn found_order(&self) -> Option<Direction> {
        let nearest = (self.count > 0 && !self.any).then_some(Direction::Forward);
        self.order.or(nearest)
    }

    /// How many members are wanted at most.
    fn count_max(&self) -> usize {
        match self.count {
            0 => usize::MAX,
            count => count,
        }
    }

    /// Goes on with a search in steps: what is found is put in order, and replied or stored.
    async fn finish(self, steps: Steps, (set, mut walk): (Option<Collection>, Walk), event: &'static str) -> Outcome {
        if let Some(set) = set {
            let set = Arc::new(set);
            while !walk.is_over() {
                let set = Arc::clone(&set);
                let step = move |context: &mut Context<'_>| {
                    walk.go_on(context, &set, members_per_step() as u64)?;
                    Ok(walk)
                };
                walk = steps.run(step).await?;
            }
        }
        let mut found = walk.found;
        if let Some(order) = self.found_order() {
            found = steps.sort(found, |a, b| compare_distances(order, a, b)).await;
        }
        if found.len() > self.count_max() {
            let mut wanted = Vec::with_capacity(self.count_max());
            let mut all = found.into_iter();
            steps
                .take_each(all.by_ref().take(self.count_max()), |found| wanted.push(found))
                .await;
            steps.take_each(all, drop).await;
            found = wanted;
        }
        if let Some(destination) = self.destination.clone() {
            let mut entries = Vec::with_capacity(found.len());
            steps.take_each(found, |found| entries.push(self.stored(found))).await;
            return store_sorted_set(&steps, destination, entries, event).await;
        }
        let count = found.len();
        let first = move |context: &mut Context<'_>| {
            context.reply.array(count);
            Ok(())
        };
        steps.run(first).await?;
        let reply = |context: &mut Context<'_>, search: &mut Search, found| {
            search.reply(&mut context.reply, &found);
            Ok(())
        };
        steps.run_with_each(found, self, reply).await.map(drop)
    }

    fn reply(&self, reply: &mut Reply<'_>, found: &Found) {
        let extras = [self.with_distance, self.with_hash, self.with_coordinates];
        let extras = extras.into_iter().filter(|is_wanted| *is_wanted).count();
        if extras > 0 {
            reply.array(extras + 1);
        }
        reply.bulk(&found.entry.member);
        if self.with_distance {
            reply_distance(reply, found.distance_meters / self.unit);
        }
        if self.with_hash {
            reply.integer(found.entry.score as i64);
        }
        if self.with_coordinates {
            reply_coordinates(reply, found.coordinates);
        }
    }

    /// What is stored of a member.
    fn stored(&self, found: Found) -> Entry {
        let score = match self.store_distances {
            true => found.distance_meters / self.unit,
            false => found.entry.score,
        };
        Entry { score, ..found.entry }
    }
}

/// The order of distances, from the nearest on (`Forward`) or from the farthest.
fn compare_distances(order: Direction, a: &Found, b: &Found) -> Ordering {
    let nearest_first = a.distance_meters.total_cmp(&b.distance_meters);
    match order {
        Direction::Forward => nearest_first,
        Direction::Backward => nearest_first.reverse(),
    }
}

/// A walk along the members of an area.
#[derive(Default)]
struct Walk {
    area: Option<(Coordinates, Shape)>,
    /// The ranges of keys that are still to be looked at.
    ranges: VecDeque<(Vec<u8>, Vec<u8>)>,
    found: Vec<Found>,
    /// How many are enough.
    enough: usize,
}

impl Walk {
    fn is_over(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Looks at about `most` members.
    fn go_on(&mut self, context: &mut Context<'_>, set: &Collection, most: u64) -> Outcome {
        let (center, shape) = self.area.ok_or(CommandError::Internal)?;
        let mut left = most;
        while left > 0
            && let Some((from, to)) = self.ranges.pop_front()
        {
            let stretch = Stretch {
                from,
                to: to.clone(),
                ..Stretch::from_end(Direction::Forward, u64::MAX)
            };
            let (found, enough, mut next) = (&mut self.found, self.enough, None);
            context.walk(set, &stretch, |_, score, member| {
                let coordinates = coordinates_of_score(score);
                if let Some(distance_meters) = shape.distance_meters(center, coordinates) {
                    let member = member.to_vec();
                    found.push(Found {
                        entry: Entry { score, member },
                        coordinates,
                        distance_meters,
                    });
                }
                left -= 1;
                if left == 0 {
                    // The first key behind this one.
                    next = Some([&score_key(ordered_score(score), member)[..], &[0]].concat());
                }
                match left > 0 && found.len() < enough {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if self.found.len() >= self.enough {
                self.ranges.clear();
                return Ok(());
            }
            if let Some(next) = next {
                self.ranges.push_front((next, to));
            }
        }
        Ok(())
    }
}
