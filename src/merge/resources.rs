//! What this process may use, and what a process does use: memory and CPUs from the cgroup if there is one, else from the
//! host; resident memory from `/proc`.
//!
//! A container sees the host's memory in `/proc/meminfo` and the host's CPUs in most libraries, but is killed by its
//! cgroup's limits. So every limit on the way from this process's cgroup up to the root counts, version 1 and 2, and the
//! smallest wins.
//!
//! Reading never fails: a file that is missing or says "no limit" is no limit. On systems without `/proc` the CPUs come
//! from the standard library and the memory is taken to be [`ASSUMED_MEMORY_BYTES`], which errs on the small side.
//!
//! Not here: how much of the limits one merge needs; that is the engine's business.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::{Means, MergeLimits};

const MIB: u64 = 1 << 20;

/// Taken for the machine's memory where none can be read.
pub const ASSUMED_MEMORY_BYTES: u64 = 4096 * MIB;

/// Without a configured limit all merges together take one part in this many of the memory: compaction is a guest on the
/// machine that ingests and answers queries.
pub const DEFAULT_MEMORY_DIVISOR: u64 = 4;

/// Without a configured limit a job gets no more than this. Slicing makes more useless: 45 million rows merge in 0.5 GB
/// as fast as in 7 GB.
pub const DEFAULT_JOB_MEMORY_MAX_BYTES: u64 = 1024 * MIB;

/// Without a configured limit a job gets no less than this, however small its share: below about 85 MB DuckDB fails
/// instead of spilling to disk.
pub const DEFAULT_JOB_MEMORY_MIN_BYTES: u64 = 128 * MIB;

/// What this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    pub memory_bytes: u64,
    pub cpus: NonZeroUsize,
}

/// Where the system tells about itself. Tests put a folder of their own here.
#[derive(Debug, Clone)]
struct Roots {
    /// `/proc`
    proc: PathBuf,
    /// `/sys/fs/cgroup`
    cgroup: PathBuf,
}

impl Roots {
    fn of_this_system() -> Self {
        Self { proc: "/proc".into(), cgroup: "/sys/fs/cgroup".into() }
    }
}

/// What this process may use: the smallest of the machine's size, the cgroup's limits and the CPU affinity.
#[must_use]
pub fn detect() -> Resources {
    detect_in(&Roots::of_this_system())
}

/// The limits of one job of several. Pure.
///
/// `configured_memory` and `configured_threads` are for all jobs together and are taken at their word, however small or
/// large; what is not configured is derived from `resources`.
#[must_use]
pub fn job_limits(
    resources: Resources,
    configured_memory: Option<u64>,
    configured_threads: Option<NonZeroUsize>,
    concurrent_jobs: NonZeroUsize,
) -> MergeLimits {
    let jobs = concurrent_jobs.get() as u64;
    let memory_bytes = match configured_memory {
        Some(for_all) => for_all / jobs,
        None => (resources.memory_bytes / DEFAULT_MEMORY_DIVISOR / jobs)
            .clamp(DEFAULT_JOB_MEMORY_MIN_BYTES, DEFAULT_JOB_MEMORY_MAX_BYTES),
    };
    let threads_for_all = configured_threads.unwrap_or(resources.cpus);
    let threads = NonZeroUsize::new(threads_for_all.get() / concurrent_jobs).unwrap_or(NonZeroUsize::MIN);
    MergeLimits { memory_bytes, threads, temp_bytes: None, means: Means::All }
}

/// Memory of a process, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Resident now.
    pub resident_bytes: u64,
    /// The most that was resident since the process started its program.
    pub peak_bytes: u64,
}

impl ProcessMemory {
    /// Of process `pid`. `None` when there is no such process, it is a zombie, or the system has no `/proc`.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    /// Of this process.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        Self::of(std::process::id())
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| kib_field(status, name);
        Some(Self { resident_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
    }
}

fn detect_in(roots: &Roots) -> Resources {
    let groups = Cgroups::of_this_process(roots);
    let host_memory =
        read(&roots.proc.join("meminfo")).and_then(|t| kib_field(&t, "MemTotal:")).unwrap_or(ASSUMED_MEMORY_BYTES);
    let allowed_cpus = read(&roots.proc.join("self/status"))
        .and_then(|t| cpu_list_len(line_after(&t, "Cpus_allowed_list:")?))
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    Resources {
        memory_bytes: groups.memory_bytes().map_or(host_memory, |limit| limit.min(host_memory)),
        cpus: groups.cpus().map_or(allowed_cpus, |quota| quota.min(allowed_cpus)),
    }
}

/// The folders that hold the limits of this process, from its own cgroup up to the root, per version and controller.
#[derive(Debug, Default)]
struct Cgroups {
    v2: Vec<PathBuf>,
    v1_memory: Vec<PathBuf>,
    v1_cpu: Vec<PathBuf>,
}

impl Cgroups {
    /// Reads `/proc/self/cgroup`: lines of `hierarchy:controllers:path`, where version 2 has no controllers.
    ///
    /// In a container the path may be the host's, of which only the top is mounted. Folders that do not exist are
    /// harmless: walking up ends at the mount's root, and that has the container's limits.
    fn of_this_process(roots: &Roots) -> Self {
        let mut groups = Self::default();
        for line in read(&roots.proc.join("self/cgroup")).unwrap_or_default().lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                for mount in [roots.cgroup.clone(), roots.cgroup.join("unified")] {
                    groups.v2.extend(upwards(&mount, path));
                }
            }
            for controller in controllers.split(',') {
                let folders = match controller {
                    "memory" => &mut groups.v1_memory,
                    "cpu" => &mut groups.v1_cpu,
                    _ => continue,
                };
                // Mounted under the full list of controllers, usually with a link for each single one.
                for mount in [controllers, controller] {
                    folders.extend(upwards(&roots.cgroup.join(mount), path));
                }
            }
        }
        groups
    }

    fn memory_bytes(&self) -> Option<u64> {
        let v2 = self.v2.iter().flat_map(|f| [f.join("memory.max"), f.join("memory.high")]);
        let v1 = self.v1_memory.iter().map(|f| f.join("memory.limit_in_bytes"));
        // "max" is no number; version 1 says "no limit" with a number far beyond any machine.
        v2.chain(v1).filter_map(|file| read(&file)?.trim().parse().ok()).min()
    }

    fn cpus(&self) -> Option<NonZeroUsize> {
        let v2 = self.v2.iter().filter_map(|f| {
            let text = read(&f.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            cpus_of_quota(quota, period)
        });
        let v1 = self.v1_cpu.iter().filter_map(|f| {
            cpus_of_quota(read(&f.join("cpu.cfs_quota_us"))?.trim(), read(&f.join("cpu.cfs_period_us"))?.trim())
        });
        v2.chain(v1).min()
    }
}

/// `mount/path`, its parent, and so on, and at last `mount`.
fn upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.contains(&"..") {
        // The cgroup lies outside of what this namespace shows; only the mount's root is known to be ours.
        parts.clear();
    }
    (0..=parts.len()).rev().map(|n| mount.join(parts[..n].join("/"))).collect()
}

/// Whole CPUs that a quota of CPU time per period needs: rounded up, because 1.5 CPUs are used better by two threads than
/// by one. "max" and -1 mean no limit.
fn cpus_of_quota(quota: &str, period: &str) -> Option<NonZeroUsize> {
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    NonZeroUsize::new(usize::try_from(quota.checked_next_multiple_of(period)?.checked_div(period)?).ok()?)
}

/// How many CPUs a list such as `0-3,8` names.
fn cpu_list_len(text: &str) -> Option<NonZeroUsize> {
    let mut cpus = 0;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cpus += last.checked_sub(first)? + 1;
    }
    NonZeroUsize::new(cpus)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn line_after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// A field such as `VmRSS:     1644 kB`, in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = line_after(text, name)?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine of 64 GiB and 16 CPUs, described by files below a folder.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(cgroup: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            machine
                .with("proc/meminfo", "MemTotal:       67108864 kB\nMemFree:  1 kB\n")
                .with("proc/self/status", "Name:\tarc\nCpus_allowed:\tffff\nCpus_allowed_list:\t0-15\n")
                .with("proc/self/cgroup", cgroup)
        }

        fn with(self, path: &str, content: &str) -> Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            self
        }

        fn detected(&self) -> (u64, usize) {
            let found = detect_in(&Roots { proc: self.0.path().join("proc"), cgroup: self.0.path().join("cg") });
            (found.memory_bytes, found.cpus.get())
        }
    }

    #[test]
    fn without_limits_the_machine_is_what_there_is() {
        assert_eq!(Machine::new("0::/\n").detected(), (64 * GIB, 16));
        let unlimited = Machine::new("0::/a\n").with("cg/a/memory.max", "max\n").with("cg/a/cpu.max", "max 100000\n");
        assert_eq!(unlimited.detected(), (64 * GIB, 16));
    }

    /// T48: the container's limits, not the host's.
    #[test]
    fn the_smallest_version_2_limit_on_the_way_up_counts() {
        let nested = Machine::new("0::/pod/arc\n")
            .with("cg/pod/arc/memory.max", "8589934592\n")
            .with("cg/pod/arc/cpu.max", "max 100000\n")
            .with("cg/pod/memory.max", "max\n")
            .with("cg/pod/memory.high", "2147483648\n")
            .with("cg/pod/cpu.max", "150000 100000\n");
        assert_eq!(nested.detected(), (2 * GIB, 2));
    }

    /// T48.
    #[test]
    fn version_1_limits_count_also_when_the_path_is_the_hosts() {
        let container = Machine::new("5:cpu,cpuacct:/docker/f00\n4:memory:/docker/f00\n1:name=systemd:/x\n0::/\n")
            .with("cg/memory/memory.limit_in_bytes", "1073741824\n")
            .with("cg/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
            .with("cg/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!(container.detected(), (GIB, 1));
        let unlimited = Machine::new("5:cpu:/\n4:memory:/\n")
            .with("cg/memory/memory.limit_in_bytes", "9223372036854771712\n")
            .with("cg/cpu/cpu.cfs_quota_us", "-1\n")
            .with("cg/cpu/cpu.cfs_period_us", "100000\n");
        assert_eq!(unlimited.detected(), (64 * GIB, 16));
    }

    #[test]
    fn affinity_limits_the_cpus_and_a_path_outside_the_namespace_means_the_root() {
        let pinned = Machine::new("0::/../..\n")
            .with("proc/self/status", "Cpus_allowed_list:\t0-1,8\n")
            .with("cg/memory.max", "1073741824");
        assert_eq!(pinned.detected(), (GIB, 3));
    }

    #[test]
    fn a_system_that_says_nothing_or_nonsense_still_gives_usable_numbers() {
        let nonsense = Machine::new("::::\n0\n0::/\n")
            .with("proc/meminfo", "MemTotal: lots\n")
            .with("proc/self/status", "Cpus_allowed_list:\t5-1\n")
            .with("cg/cpu.max", "100000 0\n");
        let (memory, cpus) = nonsense.detected();
        assert_eq!(memory, ASSUMED_MEMORY_BYTES);
        assert!(cpus >= 1);
    }

    #[test]
    fn the_memory_of_this_process_is_known() {
        let memory = ProcessMemory::of_this_process().unwrap();
        assert!(memory.resident_bytes > 0 && memory.peak_bytes >= memory.resident_bytes);
        assert_eq!(ProcessMemory::of(u32::MAX), None);
    }

    fn limits(memory: Option<u64>, threads: Option<usize>, jobs: usize, machine: (u64, usize)) -> (u64, usize) {
        let count = |n: usize| NonZeroUsize::new(n).unwrap();
        let resources = Resources { memory_bytes: machine.0, cpus: count(machine.1) };
        let limits = job_limits(resources, memory, threads.map(count), count(jobs));
        (limits.memory_bytes, limits.threads.get())
    }

    #[test]
    fn configured_limits_are_shared_by_the_jobs_and_taken_at_their_word() {
        assert_eq!(limits(Some(6 * GIB), Some(12), 4, (64 * GIB, 16)), (GIB + GIB / 2, 3));
        assert_eq!(limits(Some(64 * MIB), Some(1), 4, (64 * GIB, 16)), (16 * MIB, 1));
    }

    #[test]
    fn derived_limits_are_a_quarter_shared_by_the_jobs_within_bounds() {
        assert_eq!(limits(None, None, 2, (4 * GIB, 4)), (512 * MIB, 2));
        assert_eq!(limits(None, None, 2, (64 * GIB, 16)), (GIB, 8));
        assert_eq!(limits(None, None, 8, (GIB, 2)), (128 * MIB, 1));
    }
}
