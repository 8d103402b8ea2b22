//! Where settings come from, and how they are read setting by setting.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use zeroize::Zeroizing;

use super::value::Value;

/// The sections; a setting is in one of them, or is `data`.
const SECTIONS: [&str; 13] =
    ["relay", "admin", "log", "nats", "vault", "policy", "control", "oauth", "rotation", "accounts", "notices", "projector", "usage"];
/// The settings that are tables of tables by name, and stand in the file only.
const TABLES: [&str; 4] = ["oauth.providers", "rotation.providers", "rotation.schedules", "notices.channels"];
/// Variables of the command line that happen to begin like a section.
const NOT_SETTINGS: [&str; 1] = ["KEYRELAY_ADMIN_URL"];

/// Everything that settings are read from.
#[derive(Default)]
pub struct Sources {
    /// The file to read.
    pub file: Option<PathBuf>,
    /// The process's environment; what is not Keyrelay's is ignored.
    pub environment: BTreeMap<String, String>,
    /// (Setting, flag, text) of the flags that were given.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Source {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting as it took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub name: &'static str,
    /// None where it is not set and needs no value.
    pub value: Option<String>,
    pub source: Source,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting, the variable, or the file.
    pub name: String,
    /// Goes on from the name.
    pub problem: String,
}

/// Everything that is wrong, in one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is wrong:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {} {}", fault.name, fault.problem))
    }
}

/// Reads settings one by one; what is left over in the end is unknown.
pub(super) struct Reader {
    file_path: PathBuf,
    file: BTreeMap<String, Zeroizing<String>>,
    tables: BTreeMap<String, toml::Table>,
    environment: BTreeMap<String, Zeroizing<String>>,
    flags: Vec<(&'static str, &'static str, String)>,
    settings: Vec<Setting>,
    faults: Vec<Fault>,
}

impl Reader {
    pub(super) fn new(sources: Sources) -> Self {
        let environment = sources.environment.into_iter().filter(|(name, value)| is_setting(name) && !value.is_empty());
        let mut reader = Self {
            file_path: sources.file.clone().unwrap_or_default(),
            file: BTreeMap::new(),
            tables: BTreeMap::new(),
            environment: environment.map(|(name, value)| (name, Zeroizing::new(value))).collect(),
            flags: sources.flags,
            settings: Vec::new(),
            faults: Vec::new(),
        };
        if let Some(path) = sources.file {
            match read_file(&path) {
                Ok(table) => reader.flatten("", table),
                Err(problem) => reader.refuse(&path.display().to_string(), &problem),
            }
        }
        reader
    }

    /// A setting that has a default.
    pub(super) fn setting<T: Value>(&mut self, name: &'static str, default: T) -> T {
        let (value, source) = self.take(name).unwrap_or((default, Source::Default));
        self.settings.push(Setting { name, value: Some(value.show()), source });
        value
    }

    /// A setting that may be absent.
    pub(super) fn optional<T: Value>(&mut self, name: &'static str) -> Option<T> {
        let (value, source) = self.take::<T>(name).map_or((None, Source::Default), |(value, source)| (Some(value), source));
        self.settings.push(Setting { name, value: value.as_ref().map(Value::show), source });
        value
    }

    /// A setting that is a table of things by name; the settings show the names.
    pub(super) fn table(&mut self, name: &'static str) -> toml::Table {
        let table = self.tables.remove(name);
        let source = table.as_ref().map_or(Source::Default, |_| Source::File(self.file_path.clone()));
        let names = table.as_ref().map(|table| table.keys().cloned().collect::<Vec<_>>().join(", "));
        self.settings.push(Setting { name, value: names, source });
        table.unwrap_or_default()
    }

    pub(super) fn refuse(&mut self, name: &str, problem: &str) {
        self.faults.push(Fault { name: name.to_owned(), problem: problem.to_owned() });
    }

    /// The effective settings, or everything that is wrong.
    pub(super) fn finish(mut self) -> Result<Vec<Setting>, Faults> {
        let file = self.file_path.display().to_string();
        for name in std::mem::take(&mut self.file).into_keys() {
            self.refuse(&file, &format!("has {name}, which is not a setting"));
        }
        for name in std::mem::take(&mut self.environment).into_keys() {
            self.refuse(&name, "is in the environment, but no setting has this name");
        }
        if self.faults.is_empty() { Ok(self.settings) } else { Err(Faults(self.faults)) }
    }

    /// The value of the strongest source. Weaker ones are parsed too, so that a fault in one does not wait until the stronger one goes.
    fn take<T: Value>(&mut self, name: &'static str) -> Option<(T, Source)> {
        let variable = variable(name);
        let file = self.file.remove(name).map(|text| (text, Source::File(self.file_path.clone())));
        let environment = self.environment.remove(&variable).map(|text| (text, Source::Environment(variable)));
        let flag = self.flags.iter().find(|(setting, _, _)| *setting == name);
        let flag = flag.map(|(_, flag, text)| (Zeroizing::new(text.clone()), Source::Flag(flag)));
        let mut strongest = None;
        for (text, source) in [file, environment, flag].into_iter().flatten() {
            match T::parse(&text) {
                Some(value) => strongest = Some((value, source)),
                None if T::IS_SECRET => self.refuse(name, &format!("from {source} is not {}", T::EXPECTED)),
                None => self.refuse(name, &format!("is {:?} from {source}, expected {}", &**text, T::EXPECTED)),
            }
        }
        strongest
    }

    /// Takes in a table of the file as `section.name` and text.
    fn flatten(&mut self, prefix: &str, table: toml::Table) {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            match value {
                toml::Value::Table(table) if TABLES.contains(&name.as_str()) => drop(self.tables.insert(name, table)),
                toml::Value::Table(table) if prefix.is_empty() => self.flatten(&format!("{name}."), table),
                toml::Value::String(text) => drop(self.file.insert(name, Zeroizing::new(text))),
                toml::Value::Integer(number) => drop(self.file.insert(name, Zeroizing::new(number.to_string()))),
                toml::Value::Array(values) if values.iter().all(toml::Value::is_str) => {
                    let texts: Vec<&str> = values.iter().filter_map(toml::Value::as_str).collect();
                    self.file.insert(name, Zeroizing::new(texts.join(",")));
                }
                toml::Value::Boolean(is) => drop(self.file.insert(name, Zeroizing::new(is.to_string()))),
                other => self.refuse(&name, &format!("is of the type {}, which no setting has", other.type_str())),
            }
        }
    }
}

/// `relay.listen` is `KEYRELAY_RELAY_LISTEN`.
fn variable(name: &str) -> String {
    format!("KEYRELAY_{}", name.replace('.', "_").to_ascii_uppercase())
}

/// Whether a variable can only be meant as a setting.
fn is_setting(variable: &str) -> bool {
    let Some(name) = variable.strip_prefix("KEYRELAY_") else { return false };
    let of_section = |section: &&str| name.strip_prefix(section.to_ascii_uppercase().as_str()).is_some_and(|rest| rest.starts_with('_'));
    name == "DATA" || (SECTIONS.iter().any(of_section) && !NOT_SETTINGS.contains(&variable))
}

fn read_file(path: &std::path::Path) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    // The message only: an excerpt of the file may hold a secret.
    let line = |at: usize| text[..at.min(text.len())].bytes().filter(|b| *b == b'\n').count() + 1;
    text.parse().map_err(|error: toml::de::Error| {
        let place = error.span().map(|span| format!(" in line {}", line(span.start))).unwrap_or_default();
        format!("is not TOML{place}: {}", error.message())
    })
}
