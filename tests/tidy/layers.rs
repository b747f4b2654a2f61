//! Imports run down: which folder of `src/` may import which, and that no circle of imports leaves its folder.

use super::{root, sources};
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The folders and files of `src/` from top to bottom. A file may import from those in its own line and below.
const LAYERS: [&[&str]; 15] = [
    &["main", "lib"],
    &["server", "engine"],
    &["rows"],
    &["network"],
    &["executor"],
    &["observe"],
    &["registry"],
    &["commands"],
    &["scripts"],
    &["channel"],
    &["command"],
    &["storage"],
    &["preflight", "config", "protocol", "topology"],
    &["ring", "slots", "faults", "error"],
    &["number", "clock", "glob", "panics"],
];

/// Imports that go up, as `importing file > imported file`. The list may only shrink.
const UPWARDS: &[&str] = &[];

/// Circles of imports over more than one folder, each by how many files it has. The list may only shrink.
const CIRCLES: &[usize] = &[];

/// Every source file by its name below `src/`, without its tests and comments.
fn files() -> BTreeMap<String, String> {
    let src = root().join("src");
    let comment = regex::Regex::new(r"//[^\n]*").expect("a pattern");
    let tests = regex::Regex::new(r"(?s)#\[cfg\(test\)\]\s*mod \w+ \{.*").expect("a pattern");
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file");
        let name = path.strip_prefix(&src).expect("a file of src").display().to_string();
        (name, tests.replace(&comment.replace_all(&text, ""), "").into_owned())
    };
    sources(&src).into_iter().map(read).collect()
}

/// The folder of `src/` that a file is in, or the file's own name.
fn folder(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The module that a file is: `["storage", "shard"]`.
fn module(file: &str) -> Vec<&str> {
    let mut names: Vec<&str> = file.strip_suffix(".rs").expect("a source file").split('/').collect();
    if matches!(names.last(), Some(&"mod" | &"lib" | &"main")) {
        names.pop();
    }
    names
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn leaves(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        found.push(format!("{prefix}{}", tree.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let mut depth = 0;
    let mut begin = open + 1;
    for (at, byte) in tree.bytes().enumerate().skip(open + 1) {
        match byte {
            b'{' => depth += 1,
            b',' | b'}' if depth == 0 => {
                if !tree[begin..at].trim().is_empty() {
                    leaves(&tree[begin..at], &prefix, found);
                }
                begin = at + 1;
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
}

/// The file that a path of a file means, if it is one of `src/`.
fn resolve<'a>(path: &str, file: &str, modules: &BTreeMap<Vec<&str>, &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = path.split("::").map(str::trim).collect();
    let mut at = module(file);
    match names[0] {
        "crate" => at.clear(),
        "super" => {
            while names[0] == "super" {
                at.pop()?;
                names.remove(0);
            }
            names.insert(0, "");
        }
        "self" => {}
        _ => return None,
    }
    let mut found = None;
    for name in &names[1..] {
        at.push(name);
        found = modules.get(&at).copied().or(found);
    }
    found
}

/// Who imports whom.
fn imports(files: &BTreeMap<String, String>) -> BTreeSet<(&str, &str)> {
    let modules: BTreeMap<Vec<&str>, &str> = files.keys().map(|file| (module(file), file.as_str())).collect();
    let uses = regex::Regex::new(r"\buse ((?:crate|super|self)::[^;]+);").expect("a pattern");
    let paths = regex::Regex::new(r"\b(?:crate|super)::[\w:]+").expect("a pattern");
    let mut found = BTreeSet::new();
    for (file, text) in files {
        let mut named = Vec::new();
        for tree in uses.captures_iter(text) {
            leaves(&tree[1], "", &mut named);
        }
        named.extend(paths.find_iter(text).map(|path| path.as_str().to_owned()));
        let resolved = named.iter().filter_map(|path| resolve(path, file, &modules));
        found.extend(
            resolved
                .filter(|other| other != file)
                .map(|other| (file.as_str(), other)),
        );
    }
    found
}

fn layer(file: &str) -> usize {
    let of = |names: &&[&str]| names.contains(&folder(file));
    LAYERS
        .iter()
        .position(of)
        .unwrap_or_else(|| panic!("{file} is in no layer"))
}

#[test]
fn imports_run_down() {
    let files = files();
    let found: Vec<String> = imports(&files)
        .into_iter()
        .filter(|(from, to)| layer(from) < layer(to) || folder(from) != folder(to))
        .filter(|(from, to)| layer(from) > layer(to))
        .map(|(from, to)| format!("{from} > {to}"))
        .collect();
    let listed: Vec<&str> = UPWARDS.to_vec();
    let new: Vec<&String> = found
        .iter()
        .filter(|import| !listed.contains(&import.as_str()))
        .collect();
    assert!(new.is_empty(), "these imports go up: {new:#?}");
    let gone: Vec<&&str> = listed
        .iter()
        .filter(|import| !found.iter().any(|found| found == *import))
        .collect();
    assert!(
        gone.is_empty(),
        "these imports are gone; take them off the list: {gone:#?}"
    );
}

#[test]
fn no_circle_of_imports_leaves_its_folder() {
    let files = files();
    let mut graph = DiGraph::<&str, ()>::new();
    let nodes: BTreeMap<&str, NodeIndex> = files.keys().map(|file| (file.as_str(), graph.add_node(file))).collect();
    for (from, to) in imports(&files) {
        graph.add_edge(nodes[from], nodes[to], ());
    }
    let circles = kosaraju_scc(&graph).into_iter();
    let named = |circle: Vec<NodeIndex>| circle.into_iter().map(|node| graph[node]).collect();
    let mut circles: Vec<Vec<&str>> = circles.map(named).collect();
    circles.retain(|circle| circle.iter().any(|file| folder(file) != folder(circle[0])));
    let mut sizes: Vec<usize> = circles.iter().map(Vec::len).collect();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!(sizes, CIRCLES, "the circles: {circles:#?}");
}

#[test]
fn no_two_files_share_a_name() {
    let mut by_name = BTreeMap::<String, Vec<String>>::new();
    for file in files().into_keys() {
        let name = file.rsplit('/').next().unwrap_or(&file).to_owned();
        by_name.entry(name).or_default().push(file);
    }
    by_name.retain(|name, files| name != "mod.rs" && files.len() > 1);
    assert!(
        by_name.is_empty(),
        "an editor's tab and a stack trace cannot tell these apart: {by_name:#?}"
    );
}
