//! Words for scenes: many phrasings, short and rich, as people would type them.

use super::random::Random;
use super::scene::{Biome, Scene, Time, Weather};

/// Names of a biome; `biome_nouns(b)[0]` is the plain one.
pub(super) fn biome_nouns(biome: Biome) -> &'static [&'static str] {
    match biome {
        Biome::Meadow => &[
            "meadow",
            "grassland",
            "green field",
            "flower meadow",
            "grassy plain",
            "prairie",
            "pasture",
            "field of flowers",
        ],
        Biome::Forest => {
            &["forest", "wood", "woodland", "green forest", "grove", "deep forest", "forest of oak and birch"]
        }
        Biome::Desert => {
            &["desert", "sandy desert", "sea of sand", "dry desert", "sandy wasteland", "desert of dunes", "dune field"]
        }
        Biome::Snowfield => &[
            "snowfield",
            "snowy plain",
            "winter landscape",
            "snowy land",
            "frozen tundra",
            "field of snow",
            "white winter world",
        ],
        Biome::Badlands => &[
            "badlands",
            "red canyon land",
            "red rock country",
            "land of red mesas",
            "layered badlands",
            "clay canyon",
            "red rocky terrain",
        ],
        Biome::Shore => &[
            "shore",
            "beach",
            "seaside",
            "sandy beach",
            "coast",
            "tropical beach",
            "seashore",
            "sandy coast with palms",
        ],
    }
}

fn adjectives(biome: Biome) -> &'static [&'static str] {
    match biome {
        Biome::Meadow => &["green", "flowery", "lush", "gentle", "wide open", "peaceful"],
        Biome::Forest => &["dark green", "leafy", "quiet", "wooded", "shady", "dense"],
        Biome::Desert => &["dry", "sandy", "golden", "barren", "vast", "arid"],
        Biome::Snowfield => &["snowy", "white", "frozen", "icy", "cold", "wintry"],
        Biome::Badlands => &["red", "rocky", "layered", "orange", "rugged", "terraced"],
        Biome::Shore => &["sandy", "tropical", "blue", "coastal", "calm", "palm-lined"],
    }
}

fn objects(biome: Biome) -> &'static [&'static str] {
    match biome {
        Biome::Meadow => &[
            "flowers",
            "a few round trees",
            "colourful flowers in the grass",
            "green hills",
            "scattered trees",
            "bright green grass",
        ],
        Biome::Forest => {
            &["oaks and birches", "tall trees", "many trees", "birch trunks", "thick green leaves", "trees all around"]
        }
        Biome::Desert => {
            &["cacti", "sand dunes", "tall cacti", "dry bushes", "blocks of sandstone", "yellow sand everywhere"]
        }
        Biome::Snowfield => &[
            "dark firs",
            "snow-covered fir trees",
            "frozen ponds",
            "deep snow",
            "pine trees in the snow",
            "ice and snow",
        ],
        Biome::Badlands => &[
            "red mesas",
            "striped cliffs",
            "layers of red and orange rock",
            "terraces of clay",
            "orange hills",
            "red sand and rock",
        ],
        Biome::Shore => {
            &["palm trees", "blue water", "palms and sand", "the sea", "water ahead", "a blue ocean and palms"]
        }
    }
}

/// Adverbial phrases: "… at night".
fn time_phrases(time: Time) -> &'static [&'static str] {
    match time {
        Time::Dawn => &[
            "at dawn",
            "at sunrise",
            "early in the morning",
            "in the early morning",
            "at first light",
            "at daybreak",
            "under a pink morning sky",
            "as the sun rises",
            "in the morning",
            "at the break of day",
            "as morning comes",
            "in the soft morning light",
            "just before sunrise",
            "just after sunrise",
            "when the day begins",
            "under a rising sun",
            "with the sun coming up",
            "in the pink light of morning",
            "as the night ends",
        ],
        Time::Noon => &[
            "at noon",
            "at midday",
            "in the daytime",
            "during the day",
            "in broad daylight",
            "in the middle of the day",
            "under a blue sky",
            "at high noon",
            "under a high sun",
            "in full sunlight",
            "in bright sunshine",
            "under the midday sun",
            "at lunchtime",
            "at twelve o'clock",
            "by day",
            "on a sunny day",
            "with the sun overhead",
            "in the afternoon",
            "under a bright blue sky",
        ],
        Time::Sunset => &[
            "at sunset",
            "in the evening",
            "at dusk",
            "in the evening light",
            "as the sun goes down",
            "under an orange sky",
            "at the end of the day",
            "at sundown",
            "as evening falls",
            "in the golden hour",
            "in the last light",
            "with the sun setting",
            "at twilight",
            "under a red evening sky",
            "when the day ends",
            "as dusk settles",
            "in the glow of the setting sun",
            "late in the day",
            "just before dark",
        ],
        Time::Night => &[
            "at night",
            "by moonlight",
            "in the moonlight",
            "after dark",
            "under the moon",
            "under a starry sky",
            "in the middle of the night",
            "at midnight",
            "late at night",
            "under the stars",
            "in darkness",
            "in the dark",
            "deep in the night",
            "lit by the moon",
            "on a dark night",
            "with stars overhead",
            "under a black sky",
            "in the dead of night",
            "in moonlit darkness",
        ],
    }
}

/// Single words: "…, night".
fn time_words(time: Time) -> &'static [&'static str] {
    match time {
        Time::Dawn => &[
            "dawn",
            "sunrise",
            "early morning",
            "daybreak",
            "morning",
            "early dawn",
            "first light",
            "sunup",
            "pale morning",
            "rising sun",
        ],
        Time::Noon => &[
            "noon",
            "midday",
            "daytime",
            "day",
            "bright day",
            "high noon",
            "bright daylight",
            "afternoon",
            "sunny day",
            "full daylight",
        ],
        Time::Sunset => &[
            "sunset",
            "evening",
            "dusk",
            "evening light",
            "sundown",
            "twilight",
            "golden hour",
            "setting sun",
            "last light",
            "orange evening",
        ],
        Time::Night => &[
            "night",
            "moonlight",
            "nighttime",
            "dark night",
            "midnight",
            "darkness",
            "starry night",
            "moonlit night",
            "late night",
            "dead of night",
        ],
    }
}

fn weather_phrases(weather: Weather) -> &'static [&'static str] {
    match weather {
        Weather::Clear => &[
            "in clear weather",
            "with clear skies",
            "on a clear day",
            "with a clear view",
            "in fine weather",
            "under a cloudless sky",
            "with no clouds",
            "without a cloud in the sky",
            "in good weather",
            "with clean air",
            "in dry weather",
            "in bright weather",
            "when the air is clear",
        ],
        Weather::Fog => &[
            "in fog",
            "in thick fog",
            "in the mist",
            "with fog all around",
            "covered in fog",
            "lost in mist",
            "wrapped in mist",
            "in dense fog",
            "in a grey haze",
            "with low visibility",
            "where mist hangs in the air",
            "veiled in fog",
            "swallowed by fog",
            "in hazy air",
            "where one can hardly see",
        ],
        Weather::Rain => &[
            "in the rain",
            "while it rains",
            "on a rainy day",
            "with rain falling",
            "in a rain shower",
            "in wet weather",
            "in pouring rain",
            "in a downpour",
            "in heavy rain",
            "in drizzle",
            "with raindrops falling",
            "under rain clouds",
            "as rain pours down",
            "in a light drizzle",
            "soaked by rain",
            "during a shower",
        ],
        Weather::Snowfall => &[
            "while it snows",
            "in falling snow",
            "with snow falling",
            "in a snowfall",
            "with snowflakes in the air",
            "during light snow",
            "in a snowstorm",
            "in a blizzard",
            "as snow falls",
            "with heavy snow coming down",
            "in a flurry of snow",
            "with flakes drifting down",
            "in driving snow",
            "during a snow shower",
            "as snowflakes drift by",
        ],
    }
}

fn weather_words(weather: Weather) -> &'static [&'static str] {
    match weather {
        Weather::Clear => &[
            "clear",
            "clear sky",
            "fine weather",
            "clear weather",
            "cloudless",
            "no clouds",
            "clean air",
            "good weather",
            "dry weather",
            "bright weather",
        ],
        Weather::Fog => &[
            "fog",
            "foggy",
            "mist",
            "misty",
            "thick fog",
            "dense fog",
            "haze",
            "hazy",
            "low visibility",
            "grey mist",
            "murky air",
        ],
        Weather::Rain => &[
            "rain",
            "rainy",
            "raining",
            "rain shower",
            "wet weather",
            "downpour",
            "drizzle",
            "pouring rain",
            "heavy rain",
            "rain clouds",
            "showers",
        ],
        Weather::Snowfall => &[
            "snowfall",
            "snowing",
            "falling snow",
            "snow in the air",
            "light snow",
            "snowstorm",
            "blizzard",
            "flurries",
            "heavy snow",
            "drifting flakes",
            "snow shower",
        ],
    }
}

/// Adjectives: "a foggy …".
fn weather_adjectives(weather: Weather) -> &'static [&'static str] {
    match weather {
        Weather::Clear => &["clear", "bright", "cloudless"],
        Weather::Fog => &["foggy", "misty", "hazy", "fog-bound", "mist-covered", "murky"],
        Weather::Rain => &["rainy", "wet", "rain-soaked", "drizzly", "drenched"],
        Weather::Snowfall => &["snow-swept", "snowing", "snow-blown", "blizzard-whipped"],
    }
}

fn article(phrase: &str) -> String {
    let plural = phrase.starts_with("badlands") || phrase.ends_with(" badlands");
    let vowel = phrase.starts_with(['a', 'e', 'i', 'o', 'u']);
    match (plural, vowel) {
        (true, _) => phrase.to_owned(),
        (false, true) => format!("an {phrase}"),
        (false, false) => format!("a {phrase}"),
    }
}

/// One of many phrasings of a scene, from two words to a sentence. The biome is always named, time mostly,
/// weather mostly unless it is clear.
pub fn caption(scene: Scene, random: &mut Random) -> String {
    let Scene { biome, time, weather } = scene;
    let noun = random.pick(biome_nouns(biome));
    let adjective = random.pick(adjectives(biome));
    let [thing, other] = [random.pick(objects(biome)), random.pick(objects(biome))];
    let at = random.pick(time_phrases(time));
    let hour = random.pick(time_words(time));
    let air = random.pick(weather_phrases(weather));
    let sky = random.pick(weather_words(weather));
    let how = random.pick(weather_adjectives(weather));
    let a_noun = article(noun);
    let an_adjective_noun =
        if noun.contains(adjective) { article(noun) } else { article(&format!("{adjective} {noun}")) };
    let a_how_noun = article(&format!("{how} {noun}"));
    let both = if thing == other { thing.to_owned() } else { format!("{thing} and {other}") };

    let names_weather = random.chance(if weather == Weather::Clear { 0.2 } else { 0.85 });
    let names_time = random.chance(0.85);
    let text = match (names_time, names_weather) {
        (true, true) => match random.ticks(0, 18) {
            0 => format!("{noun}, {hour}, {sky}"),
            1 => format!("{noun} {at} {air}"),
            2 => format!("{a_noun} {at}, {sky}"),
            3 => format!("{an_adjective_noun} {at} {air}"),
            4 => format!("{a_how_noun} {at}"),
            5 => format!("{a_how_noun} {at} with {thing}"),
            6 => format!("walking through {a_noun} {at} {air}"),
            7 => format!("{hour} in {a_noun}, {sky}, {thing}"),
            8 => format!("{sky}, {hour}, {noun}"),
            9 => format!("I walk through {an_adjective_noun} {at} {air}, past {both}"),
            10 => format!("{an_adjective_noun} {air}, {hour}"),
            11 => format!("the view over {an_adjective_noun} with {both}, {at} and {air}"),
            12 => format!("{how} {hour}, {noun}"),
            13 => format!("{thing} in {a_noun} {air} {at}"),
            14 => format!("a blocky world: {noun}, {thing}, {hour}, {sky}"),
            15 => format!("{at} {air}: {a_noun}"),
            16 => format!("{a_noun} {air}. It is {hour}. I see {thing}"),
            _ => format!("a {how} {noun} scene, {hour}").replace("a badlands", "badlands"),
        },
        (true, false) => match random.ticks(0, 16) {
            0 => format!("{noun}, {hour}"),
            1 => format!("{noun} {at}"),
            2 => format!("{a_noun} {at}"),
            3 => format!("{an_adjective_noun} {at}"),
            4 => format!("{an_adjective_noun} {at} with {thing}"),
            5 => format!("{hour} over {a_noun}"),
            6 => format!("{a_noun} with {both}, {hour}"),
            7 => format!("walking in {a_noun} {at}"),
            8 => format!("I stroll through {an_adjective_noun} {at}, past {both}"),
            9 => format!("{hour} in the {noun}"),
            10 => format!("{thing} in {an_adjective_noun} {at}"),
            11 => format!("a voxel landscape of {noun} with {thing} {at}"),
            12 => format!("{at}, {a_noun} with {thing}"),
            13 => format!("the {noun} {at}, {thing}"),
            14 => format!("{adjective} {noun}, {hour}"),
            _ => format!("take me to {a_noun} {at}"),
        },
        (false, true) => match random.ticks(0, 12) {
            0 => format!("{noun}, {sky}"),
            1 => format!("{noun} {air}"),
            2 => format!("{a_noun} {air}"),
            3 => a_how_noun,
            4 => format!("{an_adjective_noun} {air} with {thing}"),
            5 => format!("{sky} over {a_noun}"),
            6 => format!("walking through {a_how_noun}, {thing}"),
            7 => format!("{a_noun} with {both}, {sky}"),
            8 => format!("{thing} in {a_how_noun}"),
            9 => format!("{how} {noun}"),
            10 => format!("a blocky landscape {air}: {noun}"),
            _ => format!("the {noun} {air}"),
        },
        (false, false) => match random.ticks(0, 10) {
            0 => noun.to_owned(),
            1 => a_noun,
            2 => an_adjective_noun,
            3 => format!("{noun}, {thing}"),
            4 => format!("{a_noun} with {thing}"),
            5 => format!("{an_adjective_noun} with {both}"),
            6 => format!("{adjective} {noun}"),
            7 => format!("a voxel world of {noun} and {thing}"),
            8 => format!("I am in {a_noun} and see {thing}"),
            _ => format!("walking through {an_adjective_noun}"),
        },
    };
    if random.chance(0.3) { capitalised(&text) } else { text }
}

/// The neutral full form: "a meadow with flowers and a few round trees, at noon, in clear weather".
pub fn describe(scene: Scene) -> String {
    let Scene { biome, time, weather } = scene;
    let [thing, other, ..] = objects(biome) else { unreachable!("every biome has objects") };
    let noun = article(biome.name());
    format!("{noun} with {thing} and {other}, {}, {}", time_phrases(time)[0], weather_phrases(weather)[0])
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect::<String>() + ".")
}
