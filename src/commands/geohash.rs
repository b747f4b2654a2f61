//! Geohashes as Redis uses them: a point on Earth as the 52 interleaved bits of its longitude and latitude, so that
//! what is near is often near in a sorted set too, and the areas that a search has to look at.
//!
//! Source: Redis 7.2's `geohash.c` and `geohash_helper.c`, step by step, since the last bits of its doubles decide what
//! is printed and which members lie within a distance.

use std::f64::consts::PI;

/// The longitudes that can be given, in degrees.
pub const LONGITUDES: Range = Range {
    min: -180.0,
    max: 180.0,
};

/// The latitudes that can be given, in degrees: where the Mercator projection of the web ends (EPSG:900913).
pub const LATITUDES: Range = Range {
    min: -85.05112878,
    max: 85.05112878,
};

/// All latitudes, as the geohashes that others compute have them.
pub const ALL_LATITUDES: Range = Range { min: -90.0, max: 90.0 };

/// Bits of each coordinate in a score.
pub const STEPS_MAX: u32 = 26;

const _: () = assert!(
    2 * STEPS_MAX <= f64::MANTISSA_DIGITS,
    "a geohash is exact as a member's score"
);

/// Earth's quadratic mean radius for WGS 84.
const EARTH_RADIUS_METERS: f64 = 6_372_797.560856;

/// Half the length of the projection's equator.
const MERCATOR_METERS_MAX: f64 = 20_037_726.37;

const EVEN_BITS: u64 = 0x5555_5555_5555_5555;
const ODD_BITS: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// From a number to a number, in degrees.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The lower end.
    pub min: f64,
    /// The upper end.
    pub max: f64,
}

/// A point, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinates {
    /// East of Greenwich.
    pub longitude: f64,
    /// North of the equator.
    pub latitude: f64,
}

/// What a search looks at, in meters.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Everything within a distance of the point.
    Circle {
        /// The distance.
        radius: f64,
    },
    /// A rectangle around the point.
    Box {
        /// From west to east.
        width: f64,
        /// From south to north.
        height: f64,
    },
}

/// A cell: `steps` bits of each coordinate, those of the latitude at the even positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    bits: u64,
    steps: u32,
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (PI / 180.0)
}

/// The bits of a number at the even positions of another.
fn spread(number: u32) -> u64 {
    let mut bits = u64::from(number);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, EVEN_BITS),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

/// The bits at the even positions of a number.
fn gather(bits: u64) -> u32 {
    let mut bits = bits & EVEN_BITS;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits as u32
}

/// The interleaved bits of a point, `steps` of each coordinate, within the given latitudes.
pub fn encode(coordinates: Coordinates, latitudes: Range, steps: u32) -> u64 {
    let offset = |value: f64, range: Range| (value - range.min) / (range.max - range.min) * (1u64 << steps) as f64;
    let latitude = offset(coordinates.latitude, latitudes) as u32;
    let longitude = offset(coordinates.longitude, LONGITUDES) as u32;
    spread(latitude) | spread(longitude) << 1
}

/// The coordinates that a member's score stands for: the middle of its cell.
pub fn coordinates_of_score(score: f64) -> Coordinates {
    let (longitudes, latitudes) = Cell {
        bits: score as u64,
        steps: STEPS_MAX,
    }
    .area();
    let middle = |range: Range, limit: Range| ((range.min + range.max) / 2.0).clamp(limit.min, limit.max);
    Coordinates {
        longitude: middle(longitudes, LONGITUDES),
        latitude: middle(latitudes, LATITUDES),
    }
}

/// The distance of two points in meters, by the haversine formula.
pub fn distance_meters(a: Coordinates, b: Coordinates) -> f64 {
    let v = ((radians(b.longitude) - radians(a.longitude)) / 2.0).sin();
    if v == 0.0 {
        return latitude_distance_meters(a.latitude, b.latitude);
    }
    let (latitude_a, latitude_b) = (radians(a.latitude), radians(b.latitude));
    let u = ((latitude_b - latitude_a) / 2.0).sin();
    let squares = u * u + latitude_a.cos() * latitude_b.cos() * v * v;
    2.0 * EARTH_RADIUS_METERS * squares.sqrt().asin()
}

fn latitude_distance_meters(a: f64, b: f64) -> f64 {
    EARTH_RADIUS_METERS * (radians(b) - radians(a)).abs()
}

impl Shape {
    /// How far `coordinates` are from `center` in meters, if they lie in the shape around it.
    pub fn distance_meters(self, center: Coordinates, coordinates: Coordinates) -> Option<f64> {
        match self {
            Shape::Circle { radius } => {
                Some(distance_meters(center, coordinates)).filter(|distance| *distance <= radius)
            }
            Shape::Box { width, height } => {
                let along = Coordinates {
                    longitude: center.longitude,
                    ..coordinates
                };
                let inside = latitude_distance_meters(coordinates.latitude, center.latitude) <= height / 2.0
                    && distance_meters(coordinates, along) <= width / 2.0;
                inside.then(|| distance_meters(center, coordinates))
            }
        }
    }

    /// The longitudes and latitudes that hold the shape around a point.
    fn bounds(self, center: Coordinates) -> (Range, Range) {
        let (half_width, half_height) = match self {
            Shape::Circle { radius } => (radius, radius),
            Shape::Box { width, height } => (width / 2.0, height / 2.0),
        };
        let height = degrees(half_height / EARTH_RADIUS_METERS);
        let width_at = |latitude: f64| degrees(half_width / EARTH_RADIUS_METERS / radians(latitude).cos());
        // A degree of longitude is shortest at the side that is nearer to a pole.
        let width = if center.latitude < 0.0 {
            width_at(center.latitude - height)
        } else {
            width_at(center.latitude + height)
        };
        let around = |value: f64, size: f64| Range {
            min: value - size,
            max: value + size,
        };
        (around(center.longitude, width), around(center.latitude, height))
    }

    /// The ranges of scores that may hold members of the shape around a point, each from its first score to before its
    /// second: of its cell, and of the neighbours that the shape reaches into, in the order in which Redis searches
    /// them.
    pub fn score_ranges(self, center: Coordinates) -> Vec<(f64, f64)> {
        let reach = match self {
            Shape::Circle { radius } => radius,
            Shape::Box { width, height } => ((width / 2.0).powi(2) + (height / 2.0).powi(2)).sqrt(),
        };
        let (longitudes, latitudes) = self.bounds(center);
        let cell_of = |steps| Cell {
            bits: encode(center, LATITUDES, steps),
            steps,
        };
        let mut cell = cell_of(steps_for(reach, center.latitude));
        if cell.steps > 1 && !cell.neighbours_hold(longitudes, latitudes) {
            cell = cell_of(cell.steps - 1);
        }
        let (cell_longitudes, cell_latitudes) = cell.area();
        let is_useless = |east: i8, north: i8| {
            cell.steps >= 2
                && (north == -1 && cell_latitudes.min < latitudes.min
                    || north == 1 && cell_latitudes.max > latitudes.max
                    || east == -1 && cell_longitudes.min < longitudes.min
                    || east == 1 && cell_longitudes.max > longitudes.max)
        };
        const NEIGHBOURS: [(i8, i8); 9] = [
            (0, 0),
            (0, 1),
            (0, -1),
            (1, 0),
            (-1, 0),
            (1, 1),
            (-1, 1),
            (1, -1),
            (-1, -1),
        ];
        let mut cells: Vec<Cell> = Vec::new();
        for (east, north) in NEIGHBOURS {
            let neighbour = cell.moved(east, north);
            // With the largest cells, neighbours may be the same one.
            if !is_useless(east, north) && cells.last() != Some(&neighbour) {
                cells.push(neighbour);
            }
        }
        cells.into_iter().map(Cell::scores).collect()
    }
}

/// How many bits a cell has that is about as large as a distance.
fn steps_for(meters: f64, latitude: f64) -> u32 {
    if meters == 0.0 {
        return STEPS_MAX;
    }
    let mut steps: i32 = 1;
    let mut doubled = meters;
    while doubled < MERCATOR_METERS_MAX {
        doubled *= 2.0;
        steps += 1;
    }
    // So that the neighbours hold the distance in most cases.
    steps -= 2;
    // Cells are narrower towards the poles.
    steps -= i32::from(latitude.abs() > 66.0) + i32::from(latitude.abs() > 80.0);
    steps.clamp(1, STEPS_MAX as i32) as u32
}

impl Cell {
    /// Its longitudes and latitudes.
    fn area(self) -> (Range, Range) {
        let cells = (1u64 << self.steps) as f64;
        let range = |number: u32, limit: Range| {
            let scale = limit.max - limit.min;
            let number = f64::from(number);
            Range {
                min: limit.min + number / cells * scale,
                max: limit.min + (number + 1.0) / cells * scale,
            }
        };
        (
            range(gather(self.bits >> 1), LONGITUDES),
            range(gather(self.bits), LATITUDES),
        )
    }

    /// The cell beside it: −1, 0 or 1 to the east and to the north, around the world.
    fn moved(self, east: i8, north: i8) -> Cell {
        let mask = u64::MAX >> (64 - self.steps * 2);
        let step = |bits: u64, own: u64, other: u64, by: i8| match by {
            // The other coordinate's bits carry over, or are borrowed from.
            1 => bits.wrapping_add((other & mask) + 1) & own & mask,
            -1 => (bits | other & mask).wrapping_sub((other & mask) + 1) & own & mask,
            _ => bits,
        };
        let longitude = step(self.bits & ODD_BITS, ODD_BITS, EVEN_BITS, east);
        let latitude = step(self.bits & EVEN_BITS, EVEN_BITS, ODD_BITS, north);
        Cell {
            bits: longitude | latitude,
            ..self
        }
    }

    /// Whether the cell and those around it reach as far as the given ranges.
    fn neighbours_hold(self, longitudes: Range, latitudes: Range) -> bool {
        let longitudes_at = |east| self.moved(east, 0).area().0;
        let latitudes_at = |north| self.moved(0, north).area().1;
        latitudes_at(1).max >= latitudes.max
            && latitudes_at(-1).min <= latitudes.min
            && longitudes_at(1).max >= longitudes.max
            && longitudes_at(-1).min <= longitudes.min
    }

    /// The scores of the points in it: from the first to before the second.
    fn scores(self) -> (f64, f64) {
        let align = |bits: u64| (bits << (2 * (STEPS_MAX - self.steps))) as f64;
        (align(self.bits), align(self.bits + 1))
    }
}

/// The geohash of a point in the notation that others use: eleven characters, of which the last is always `0`, since 52
/// bits are ten characters and two bits.
pub fn text(coordinates: Coordinates) -> [u8; 11] {
    const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
    let bits = encode(coordinates, ALL_LATITUDES, STEPS_MAX);
    std::array::from_fn(|index| match index {
        10 => ALPHABET[0],
        _ => ALPHABET[(bits >> (2 * STEPS_MAX as usize - (index + 1) * 5) & 0x1f) as usize],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_and_texts_are_those_of_redis() {
        let palermo = Coordinates {
            longitude: 13.361389,
            latitude: 38.115556,
        };
        assert_eq!(encode(palermo, LATITUDES, STEPS_MAX), 3_479_099_956_230_698);
        let coordinates = coordinates_of_score(3_479_099_956_230_698.0);
        assert_eq!(format!("{:.17}", coordinates.longitude), "13.36138933897018433");
        assert_eq!(format!("{:.17}", coordinates.latitude), "38.11555639549629859");
        assert_eq!(&text(coordinates), b"sqc8b49rny0");
        let catania = coordinates_of_score(3_479_447_370_796_909.0);
        assert_eq!(format!("{:.4}", distance_meters(coordinates, catania)), "166274.1516");
    }

    #[test]
    fn bits_are_spread_and_gathered() {
        for number in [0, 1, 0x8000_0001, 0x1234_5678, u32::MAX] {
            assert_eq!(gather(spread(number)), number);
            assert_eq!(spread(number) & ODD_BITS, 0);
        }
    }

    #[test]
    fn a_cell_has_neighbours_around_the_world() {
        let cell = Cell { bits: 0, steps: 3 };
        assert_eq!(cell.moved(1, 0).bits, 0b10);
        assert_eq!(cell.moved(0, 1).bits, 0b01);
        assert_eq!(cell.moved(-1, 0).bits, 0b10_10_10);
        assert_eq!(cell.moved(-1, -1).bits, 0b11_11_11);
        assert_eq!(cell.moved(-1, -1).moved(1, 1), cell);
    }
}
