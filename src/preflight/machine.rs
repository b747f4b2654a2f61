//! The CPU, the kernel and io_uring: what this build needs of them.

// Unsafe: uname(2) and the CPU's feature registers.
#![allow(unsafe_code)]

use super::PreflightError;
use crate::ring;
use std::ffi::CStr;
use std::fs;
use std::mem::MaybeUninit;

/// The oldest kernel on which glommio finds all io_uring operations it uses.
const KERNEL_MIN: KernelVersion = KernelVersion { major: 5, minor: 8 };

/// The first kernel with `IORING_SETUP_COOP_TASKRUN`; see [`ring`] for what it is worth.
const KERNEL_COOPERATIVE: KernelVersion = KernelVersion { major: 5, minor: 19 };

/// Checks that the CPU has the features that this binary was compiled for (`.cargo/config.toml`).
///
/// std's `is_x86_feature_detected!` is no help: for a feature that is compiled in it is the constant `true`.
///
/// # Errors
///
/// [`PreflightError::Cpu`] with the names of the missing features.
#[cfg(target_arch = "x86_64")]
pub fn cpu_features() -> Result<(), PreflightError> {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    let leaf_max = __cpuid(0).eax;
    let extended_leaf_max = __cpuid(0x8000_0000).eax;
    let basic = __cpuid(1);
    let extended_ebx = if leaf_max >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    let amd_ecx = if extended_leaf_max >= 0x8000_0001 {
        __cpuid(0x8000_0001).ecx
    } else {
        0
    };
    let has = |register: u32, bit: u32| register & (1 << bit) != 0;
    // AVX needs the operating system too: it must save the wide registers (XCR0 bits 1 and 2) when it switches threads.
    let wide_registers_saved = has(basic.ecx, 27) && {
        // SAFETY: OSXSAVE (bit 27) says that the instruction may be used.
        (unsafe { _xgetbv(0) }) & 0b110 == 0b110
    };

    // Name, compiled in, present: the bits are those of Intel's manual, volume 2A, CPUID.
    let features = [
        ("SSE3", cfg!(target_feature = "sse3"), has(basic.ecx, 0)),
        ("PCLMULQDQ", cfg!(target_feature = "pclmulqdq"), has(basic.ecx, 1)),
        ("SSSE3", cfg!(target_feature = "ssse3"), has(basic.ecx, 9)),
        (
            "FMA",
            cfg!(target_feature = "fma"),
            has(basic.ecx, 12) && wide_registers_saved,
        ),
        ("CMPXCHG16B", cfg!(target_feature = "cmpxchg16b"), has(basic.ecx, 13)),
        ("SSE4.1", cfg!(target_feature = "sse4.1"), has(basic.ecx, 19)),
        ("SSE4.2", cfg!(target_feature = "sse4.2"), has(basic.ecx, 20)),
        ("MOVBE", cfg!(target_feature = "movbe"), has(basic.ecx, 22)),
        ("POPCNT", cfg!(target_feature = "popcnt"), has(basic.ecx, 23)),
        ("XSAVE", cfg!(target_feature = "xsave"), has(basic.ecx, 26)),
        (
            "AVX",
            cfg!(target_feature = "avx"),
            has(basic.ecx, 28) && wide_registers_saved,
        ),
        (
            "F16C",
            cfg!(target_feature = "f16c"),
            has(basic.ecx, 29) && wide_registers_saved,
        ),
        ("BMI1", cfg!(target_feature = "bmi1"), has(extended_ebx, 3)),
        (
            "AVX2",
            cfg!(target_feature = "avx2"),
            has(extended_ebx, 5) && wide_registers_saved,
        ),
        ("BMI2", cfg!(target_feature = "bmi2"), has(extended_ebx, 8)),
        ("LZCNT", cfg!(target_feature = "lzcnt"), has(amd_ecx, 5)),
    ];
    let missing: Vec<&str> = features
        .iter()
        .filter(|(_, compiled_in, present)| *compiled_in && !*present)
        .map(|(name, _, _)| *name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::Cpu {
            missing: missing.join(", "),
        })
    }
}

/// Other architectures are built for their baseline: nothing to check.
///
/// # Errors
///
/// None.
#[cfg(not(target_arch = "x86_64"))]
pub fn cpu_features() -> Result<(), PreflightError> {
    Ok(())
}

/// A Linux version, as far as features depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 in 6.18.44.
    pub major: u32,
    /// 18 in 6.18.44.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads the head of a release such as `6.1.0-28-amd64`; `None` if it does not begin with two numbers.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        Some(Self {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

/// Checks that the kernel is new enough, and returns its version. A release that cannot be read counts as the oldest
/// good one: the ring that [`io_uring`] makes decides then.
///
/// # Errors
///
/// [`PreflightError::KernelTooOld`] below 5.8. Below 5.19 there is a warning.
pub fn kernel_version(warnings: &mut Vec<String>) -> Result<KernelVersion, PreflightError> {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: uname fills the struct, all strings terminated; it was zeroed in case it fails.
    let release = unsafe {
        libc::uname(name.as_mut_ptr());
        CStr::from_ptr((*name.as_ptr()).release.as_ptr())
            .to_string_lossy()
            .into_owned()
    };
    kernel_release_check(&release, warnings)
}

fn kernel_release_check(release: &str, warnings: &mut Vec<String>) -> Result<KernelVersion, PreflightError> {
    let version = KernelVersion::parse(release).unwrap_or(KERNEL_MIN);
    if version < KERNEL_MIN {
        return Err(PreflightError::KernelTooOld {
            release: release.to_owned(),
        });
    }
    if version < KERNEL_COOPERATIVE {
        warnings.push(format!(
            "Linux {release} has no cooperative task running (5.19 or later): each request costs an interrupt more"
        ));
    }
    Ok(version)
}

/// Checks that this process may use io_uring, by making a ring.
///
/// # Errors
///
/// [`PreflightError::IoUringDisabled`], [`PreflightError::IoUringForbidden`], [`PreflightError::IoUringMissing`] or
/// [`PreflightError::IoUringFailed`], by the kernel's answer.
pub fn io_uring() -> Result<(), PreflightError> {
    let Err(error) = ring::probe() else {
        return Ok(());
    };
    Err(match error.raw_os_error() {
        Some(libc::ENOSYS) => PreflightError::IoUringMissing,
        Some(libc::EPERM | libc::EACCES) => {
            // The sysctl is there since 6.6: 0 all, 1 only a group and CAP_SYS_ADMIN, 2 nobody.
            match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
                Ok(value) if value.trim() != "0" => PreflightError::IoUringDisabled {
                    value: value.trim().to_owned(),
                },
                _ => PreflightError::IoUringForbidden,
            }
        }
        _ => PreflightError::IoUringFailed { error },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_that_runs_the_tests_has_the_features_compiled_in() {
        cpu_features().unwrap();
    }

    #[test]
    fn kernel_releases_are_read_as_distributions_write_them() {
        for (release, major, minor) in [
            ("6.18.44-fc", 6, 18),
            ("5.8", 5, 8),
            ("6.1.0-28-amd64", 6, 1),
            ("5.19-rc1", 5, 19),
        ] {
            assert_eq!(
                KernelVersion::parse(release),
                Some(KernelVersion { major, minor }),
                "{release}"
            );
        }
        assert_eq!(KernelVersion::parse("linux"), None);
        assert_eq!(KernelVersion::parse(""), None);
    }

    #[test]
    fn a_kernel_before_5_8_is_refused_and_one_before_5_19_warned_of() {
        let mut warnings = Vec::new();
        let refusal = kernel_release_check("5.4.0-150-generic", &mut warnings).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "Linux 5.4.0-150-generic is too old: corelane needs 5.8 or later, and 5.19 or later for full speed; start \
             a newer kernel"
        );
        assert!(warnings.is_empty());
        kernel_release_check("5.15.0", &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
        kernel_release_check("5.19.0", &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
    }
}
