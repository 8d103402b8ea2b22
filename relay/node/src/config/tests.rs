#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::io::Write as _;

use super::*;

fn environment<const N: usize>(variables: [(&str, &str); N]) -> Sources {
    let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Sources { environment, ..Sources::default() }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn faults(sources: Sources) -> String {
    Config::load(sources).unwrap_err().to_string()
}

fn source_of(config: &Config, name: &str) -> Source {
    config.settings.iter().find(|setting| setting.name == name).unwrap().source.clone()
}

#[test]
fn the_defaults_are_loopback_and_valid() {
    let config = Config::default();
    assert_eq!(config.relay.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.admin.listen, "127.0.0.1:8081".parse().unwrap());
    assert_eq!(config.data, PathBuf::from("./keyrelay-data"));
    assert!(!config.relay.allow_private_upstreams);
    assert!(config.settings.iter().all(|setting| setting.source == Source::Default));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = file(
        "data = \"/f\"\n[relay]\nlisten = \"127.0.0.1:1\"\nbody_bytes_max = \"2MiB\"\nconnect_timeout = \"3s\"\n[log]\nformat = \"json\"\n",
    );
    let path = file.path().to_owned();
    let config = Config::load(Sources {
        file: Some(path.clone()),
        flags: vec![("relay.listen", "--relay-listen", "127.0.0.1:3".to_owned())],
        ..environment([("KEYRELAY_RELAY_LISTEN", "127.0.0.1:2"), ("KEYRELAY_RELAY_CONNECT_TIMEOUT", "4s"), ("KEYRELAY_DATA", "/e")])
    })
    .unwrap();
    assert_eq!(config.relay.listen.port(), 3);
    assert_eq!(source_of(&config, "relay.listen"), Source::Flag("--relay-listen"));
    assert_eq!(config.relay.connect_timeout, Duration::from_secs(4));
    assert_eq!(source_of(&config, "relay.connect_timeout"), Source::Environment("KEYRELAY_RELAY_CONNECT_TIMEOUT".to_owned()));
    assert_eq!(config.data, PathBuf::from("/e"));
    assert_eq!(config.relay.body_bytes_max, ByteSize::new(2 << 20));
    assert_eq!(source_of(&config, "relay.body_bytes_max"), Source::File(path));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn all_faults_are_reported_together() {
    let file = file("colour = \"blue\"\n[relay]\nlisten = \"nowhere\"\nlisten_port = 1\n[admin]\nlisten = [1]\n[nats]\nurl = \"x\"\n");
    let text = faults(Sources {
        file: Some(file.path().to_owned()),
        ..environment([
            ("KEYRELAY_LOG_LEVEL", "verbose"),
            ("KEYRELAY_LOG_FROMAT", "json"),
            ("KEYRELAY_RELAY_IDLE_TIMEOUT", "0s"),
            ("KEYRELAY_PROJECTOR_MEMORY_BYTES", "lots"),
            ("KEYRELAY_VAULT_ROOT_KEY", " x"),
        ])
    });
    for name in [
        "colour",
        "relay.listen is \"nowhere\"",
        "relay.listen_port",
        "admin.listen is of the type array",
        "nats.url",
        "log.level is \"verbose\" from KEYRELAY_LOG_LEVEL",
        "KEYRELAY_LOG_FROMAT",
        "relay.idle_timeout",
        "projector.memory_bytes",
        "vault.root_key from KEYRELAY_VAULT_ROOT_KEY",
    ] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
    assert_eq!(text.lines().count(), 1 + 10, "{text}");
}

#[test]
fn a_fault_in_a_weaker_source_is_reported_too() {
    let file = file("[relay]\nlisten = \"nowhere\"\n");
    let sources = Sources { file: Some(file.path().to_owned()), ..environment([("KEYRELAY_RELAY_LISTEN", "127.0.0.1:2")]) };
    assert!(faults(sources).contains("nowhere"));
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let text = faults(environment([
        ("KEYRELAY_RELAY_LISTEN", "127.0.0.1:9"),
        ("KEYRELAY_ADMIN_LISTEN", "127.0.0.1:9"),
        ("KEYRELAY_VAULT_ROOT_KEY", "a"),
        ("KEYRELAY_VAULT_ROOT_KEY_FILE", "/a"),
        ("KEYRELAY_ADMIN_OWNER_TOKEN", "a"),
        ("KEYRELAY_ADMIN_OWNER_TOKEN_FILE", "/a"),
        ("KEYRELAY_RELAY_BODY_BYTES_MAX", "1GiB"),
    ]));
    assert_eq!(text.lines().count(), 1 + 4, "{text}");
    assert!(Config::load(environment([("KEYRELAY_RELAY_LISTEN", "127.0.0.1:0"), ("KEYRELAY_ADMIN_LISTEN", "127.0.0.1:0")])).is_ok());
}

#[test]
fn what_is_not_a_setting_is_left_alone() {
    let sources = environment([
        ("KEYRELAY_ADMIN_URL", "http://x"),
        ("KEYRELAY_TOKEN", "x"),
        ("KEYRELAY_PORT", "tcp://10.0.0.1:80"),
        ("KEYRELAY_LOG_LEVEL", ""),
        ("PATH", "/bin"),
    ]);
    assert_eq!(Config::load(sources).unwrap().log.level, LogLevel::default());
}

#[test]
fn secrets_are_hidden() {
    let config =
        Config::load(environment([("KEYRELAY_ADMIN_OWNER_TOKEN", "swordfish"), ("KEYRELAY_VAULT_ROOT_KEY", "swordfish")])).unwrap();
    assert_eq!(config.admin.owner_token.as_ref().unwrap().expose().as_str(), "swordfish");
    assert!(!format!("{config:?}").contains("swordfish"));
    let broken = file("[vault]\nroot_key = swordfish\n");
    assert!(!faults(Sources { file: Some(broken.path().to_owned()), ..Sources::default() }).contains("swordfish"));
    assert!(!faults(environment([("KEYRELAY_VAULT_ROOT_KEY", "swordfish ")])).contains("swordfish"));
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let text = faults(Sources { file: Some("/nonexistent/keyrelay.toml".into()), ..environment([("KEYRELAY_LOG_FORMAT", "xml")]) });
    assert!(text.contains("/nonexistent/keyrelay.toml cannot be read") && text.contains("log.format"), "{text}");
}

#[test]
fn sizes_and_levels_have_the_spelling_they_are_shown_in() {
    use super::value::Value as _;
    for (text, bytes) in [("1", 1), ("64KiB", 65_536), ("32MiB", 33_554_432), ("1GiB", 1 << 30)] {
        let size = ByteSize::parse(text).unwrap();
        assert_eq!((size.bytes(), size.show().as_str()), (bytes, text));
    }
    for wrong in ["", "0", "MiB", "1MB", "-1", "1.5GiB", "99999999999GiB"] {
        assert_eq!(ByteSize::parse(wrong), None, "{wrong}");
    }
    for (text, is_level) in
        [("info", true), ("warn,gateway=debug", true), ("off", true), ("loud", false), ("3", false), ("", false), ("info,=debug", false)]
    {
        assert_eq!(LogLevel::parse(text).is_some(), is_level, "{text}");
    }
}

#[test]
fn nats_is_given_as_a_list_and_a_password_in_it_is_not_shown() {
    let urls = "nats://me:swordfish@10.0.0.1:4222, tls://b:4222";
    let config = Config::load(environment([
        ("KEYRELAY_NATS_URL", urls),
        ("KEYRELAY_NATS_REPLICAS", "3"),
        ("KEYRELAY_NATS_MONITOR_URL", "http://10.0.0.1:8222,http://b:8222/"),
        ("KEYRELAY_NATS_REQUIRE_VERIFIED_SYNC", "true"),
        ("KEYRELAY_RELAY_STALENESS_MAX", "90s"),
    ]))
    .unwrap();
    assert_eq!(config.nats.url.as_ref().unwrap().texts(), ["nats://me:swordfish@10.0.0.1:4222", "tls://b:4222"]);
    assert_eq!(config.nats.monitor_url.as_ref().unwrap().texts(), ["http://10.0.0.1:8222", "http://b:8222"]);
    let nats = config.nats().unwrap();
    assert_eq!((nats.url.len(), nats.replicas, nats.monitor_url.len(), nats.require_verified_sync), (2, Some(3), 2, true));
    assert!(Config::default().nats().is_none());
    assert_eq!(config.gateway().staleness_max, Duration::from_secs(90));
    let shown = config.settings.iter().find(|setting| setting.name == "nats.url").unwrap().value.clone().unwrap();
    assert_eq!(shown, "nats://hidden@10.0.0.1:4222,tls://b:4222");
    assert!(!format!("{config:?}").contains("swordfish"));
    assert!(!faults(environment([("KEYRELAY_NATS_URL", "http://me:swordfish@x")])).contains("swordfish"));
}

#[test]
fn nats_settings_that_do_not_go_together_are_refused() {
    let text =
        faults(environment([("KEYRELAY_NATS_REPLICAS", "3"), ("KEYRELAY_NATS_TLS_CERT", "/c"), ("KEYRELAY_NATS_MONITOR_URL", "http://x")]));
    for name in ["nats.replicas is set, but nats.url is not", "nats.monitor_url is set", "nats.tls_cert is set without nats.tls_key"] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
    assert_eq!(text.lines().count(), 1 + 4, "{text}");
    let nats = ("KEYRELAY_NATS_URL", "nats://x:4222");
    let text =
        faults(environment([nats, ("KEYRELAY_NATS_CREDENTIALS", "/c"), ("KEYRELAY_NATS_NKEY", "/n"), ("KEYRELAY_NATS_TLS_KEY", "/k")]));
    assert_eq!(text.lines().count(), 1 + 2, "{text}");
    for wrong in ["0", "6", "many"] {
        assert!(faults(environment([nats, ("KEYRELAY_NATS_REPLICAS", wrong)])).contains("a number from 1 to 5"), "{wrong}");
    }
    for wrong in ["x", "localhost:4222", "http://x", "nats://", "nats://x,"] {
        assert!(faults(environment([("KEYRELAY_NATS_URL", wrong)])).contains("nats.url"), "{wrong}");
    }
    assert!(Config::load(environment([nats, ("KEYRELAY_NATS_TLS_CERT", "/c"), ("KEYRELAY_NATS_TLS_KEY", "/k")])).is_ok());
}

#[test]
fn policies_have_a_section() {
    let config = Config::load(environment([
        ("KEYRELAY_POLICY_SLOW_THREADS", "4"),
        ("KEYRELAY_POLICY_DECISION_SAMPLE_PPM", "1000000"),
        ("KEYRELAY_POLICY_BASELINE_OUTPUT_TOKENS", "2000"),
    ]))
    .unwrap();
    let Policy { slow_threads, decision_sample_ppm, baseline_output_tokens } = config.policy;
    assert_eq!((slow_threads.get(), decision_sample_ppm.get(), baseline_output_tokens.map(NonZeroU64::get)), (4, 1_000_000, Some(2000)));
    let Policy { slow_threads, decision_sample_ppm, baseline_output_tokens } = Config::default().policy;
    assert_eq!((slow_threads.get(), decision_sample_ppm.get(), baseline_output_tokens), (2, 10_000, None));
    for (name, wrong) in [
        ("KEYRELAY_POLICY_SLOW_THREADS", "0"),
        ("KEYRELAY_POLICY_SLOW_THREADS", "65"),
        ("KEYRELAY_POLICY_DECISION_SAMPLE_PPM", "1000001"),
        ("KEYRELAY_POLICY_BASELINE_OUTPUT_TOKENS", "0"),
        ("KEYRELAY_POLICY_COLOUR", "blue"),
    ] {
        assert!(Config::load(environment([(name, wrong)])).is_err(), "{name} {wrong}");
    }
}

#[test]
fn providers_are_tables_by_name_and_complete_the_presets() {
    let file = file(
        "[oauth.providers.google]\nclient_id = \"me\"\n[oauth.providers.corp]\ntoken_url = \"https://id.example.com/token\"\n\
         authorize_url = \"https://id.example.com/authorize\"\nredirect_ports = [3128, 4649]\n",
    );
    let config = Config::load(Sources { file: Some(file.path().to_owned()), ..Sources::default() }).unwrap();
    let google = config.oauth.providers.get("google").unwrap();
    assert_eq!(google.client.as_ref().unwrap().id, "me");
    assert!(config.oauth.providers.get("corp").is_some() && config.oauth.providers.get("github").is_some());
    let shown = config.settings.iter().find(|setting| setting.name == "oauth.providers").unwrap();
    assert_eq!(shown.value.as_deref(), Some("corp, google"));
}

#[test]
fn a_provider_that_cannot_be_is_a_fault_with_its_name() {
    let file = file(
        "[oauth.providers.corp]\ntoken_url = \"http://id.example.com/token\"\ndevice_url = \"https://id.example.com/d\"\n\
         [oauth.providers.other]\ncolour = \"blue\"\n[oauth.providers.Big]\n[oauth]\nsize = 3\n",
    );
    let text = faults(Sources { file: Some(file.path().to_owned()), ..Sources::default() });
    for fault in ["oauth.providers.corp has a token_url", "oauth.providers.other is not a provider", "oauth.providers.Big", "oauth.size"] {
        assert!(text.contains(fault), "{fault} in {text}");
    }
}
