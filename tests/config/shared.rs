//! What the threads share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use corelane::config::{ConfigSetError, Settings, SharedSettings};

#[test]
fn an_update_raises_the_version_and_leaves_old_snapshots_as_they_are() {
    let shared = SharedSettings::new(Settings::default());
    let (version, before) = (shared.version(), shared.snapshot());
    let handle = shared.clone();
    let changed = handle.update(|settings| settings.set_live(&[(b"timeout", b"7")]));
    assert_eq!(changed, Ok(vec!["timeout"]));
    assert!(shared.version() > version);
    assert_eq!((before.timeout, shared.snapshot().timeout), (0, 7));
}

#[test]
fn a_failed_or_panicking_update_changes_nothing() {
    let shared = SharedSettings::new(Settings::default());
    let (version, before) = (shared.version(), shared.snapshot());
    let failed: Result<(), ConfigSetError> = shared.update(|settings| {
        settings.timeout = 9;
        Err(ConfigSetError::Unknown("x".to_owned()))
    });
    assert!(failed.is_err());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        shared.update(|settings| -> Result<(), ()> {
            settings.timeout = 9;
            panic!("in an update");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(shared.version(), version);
    assert!(Arc::ptr_eq(&before, &shared.snapshot()));
    assert_eq!(
        shared.update(|settings| settings.set_live(&[(b"timeout", b"1")])),
        Ok(vec!["timeout"])
    );
}

#[test]
fn whoever_sees_the_new_version_sees_the_new_settings() {
    const UPDATES: u64 = 1000;
    let shared = SharedSettings::new(Settings::default());
    let reader = shared.clone();
    let reading = std::thread::spawn(move || {
        let first = 1;
        loop {
            let updates_seen = reader.version() - first;
            assert!(reader.snapshot().timeout >= updates_seen);
            if updates_seen == UPDATES {
                return;
            }
            std::thread::yield_now();
        }
    });
    for _ in 0..UPDATES {
        let counted: Result<(), ()> = shared.update(|settings| {
            settings.timeout += 1;
            Ok(())
        });
        assert!(counted.is_ok());
    }
    reading.join().expect("the reader found every update");
}
