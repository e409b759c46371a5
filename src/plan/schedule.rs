//! When and where a process runs: scheduler, I/O priority, CPUs, NUMA memory, personality.

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime as spec;
use oci_spec::runtime::{
    IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType,
};

use super::text::{mask, ranges};
use super::{CpuAffinity, CpuMask, MemoryPolicy, Scheduler};

/// Names of `linux.memoryPolicy.mode`.
pub const MEMORY_POLICY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

/// Names of `linux.memoryPolicy.flags`.
pub const MEMORY_POLICY_FLAGS: &[&str] = &[
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
];

// Not in libc 0.2 (include/uapi/linux/mempolicy.h).
const MPOL_PREFERRED_MANY: i32 = 5;
const MPOL_WEIGHTED_INTERLEAVE: i32 = 6;

/// `process.scheduler`, by the rules of sched_setattr(2).
pub fn scheduler(written: &spec::Scheduler, warnings: &mut Vec<String>) -> Result<Scheduler> {
    let policy = *written.policy();
    let number = match policy {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
        LinuxSchedulerPolicy::SchedIso => bail!(
            "process.scheduler.policy: SCHED_ISO is reserved but not implemented in the kernel, \
             accepted are SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE and \
             SCHED_DEADLINE"
        ),
    };
    let nice = written.nice().unwrap_or(0);
    if matches!(
        policy,
        LinuxSchedulerPolicy::SchedOther | LinuxSchedulerPolicy::SchedBatch
    ) {
        ensure!(
            (-20..=19).contains(&nice),
            "process.scheduler.nice: invalid scheduler.nice: {nice} when scheduler.policy is \
             {policy}"
        );
    } else if nice != 0 {
        // As for the kernel and for runc.
        warnings.push(format!(
            "process.scheduler.nice: {nice} has no effect with {policy}"
        ));
    }
    let priority = written.priority().unwrap_or(0);
    ensure!(
        priority == 0
            || matches!(
                policy,
                LinuxSchedulerPolicy::SchedFifo | LinuxSchedulerPolicy::SchedRr
            ),
        "process.scheduler.priority: scheduler.priority can only be specified for SchedFIFO or \
         SchedRR policy"
    );
    ensure!(
        priority >= 0,
        "process.scheduler.priority: {priority} is negative"
    );
    let times = [written.runtime(), written.deadline(), written.period()];
    ensure!(
        matches!(policy, LinuxSchedulerPolicy::SchedDeadline)
            || times.iter().all(|t| t.unwrap_or(0) == 0),
        "process.scheduler: scheduler runtime/deadline/period can only be specified for \
         SchedDeadline policy"
    );
    let flags = written.flags().as_deref().unwrap_or_default();
    Ok(Scheduler {
        policy: number as u32,
        flags: flags.iter().fold(0, |all, flag| all | scheduler_flag(flag)),
        nice,
        priority: priority as u32,
        runtime: written.runtime().unwrap_or(0),
        deadline: written.deadline().unwrap_or(0),
        period: written.period().unwrap_or(0),
    })
}

fn scheduler_flag(flag: &LinuxSchedulerFlag) -> u64 {
    let flag = match flag {
        LinuxSchedulerFlag::SchedResetOnFork => libc::SCHED_FLAG_RESET_ON_FORK,
        LinuxSchedulerFlag::SchedFlagReclaim => libc::SCHED_FLAG_RECLAIM,
        LinuxSchedulerFlag::SchedFlagDLOverrun => libc::SCHED_FLAG_DL_OVERRUN,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => libc::SCHED_FLAG_KEEP_POLICY,
        LinuxSchedulerFlag::SchedFlagKeepParams => libc::SCHED_FLAG_KEEP_PARAMS,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => libc::SCHED_FLAG_UTIL_CLAMP_MIN,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => libc::SCHED_FLAG_UTIL_CLAMP_MAX,
    };
    flag as u64
}

/// The class is above this bit in what ioprio_set(2) takes.
const IOPRIO_CLASS_SHIFT: i32 = 13;

/// `process.ioPriority`.
pub fn io_priority(written: &spec::LinuxIOPriority) -> Result<i32> {
    let priority = written.priority();
    ensure!(
        (0..=7).contains(&priority),
        "process.ioPriority.priority: invalid ioPriority.Priority: {priority}, accepted are 0 to 7"
    );
    let (class, priority) = match written.class() {
        IOPriorityClass::IoprioClassRt => (1, priority as i32),
        IOPriorityClass::IoprioClassBe => (2, priority as i32),
        // It has no levels, and the kernel refuses any but 0.
        IOPriorityClass::IoprioClassIdle => (3, 0),
    };
    Ok(class << IOPRIO_CLASS_SHIFT | priority)
}

/// `process.execCPUAffinity`.
pub fn cpu_affinity(written: &spec::ExecCPUAffinity) -> Result<CpuAffinity> {
    Ok(CpuAffinity {
        initial: cpus("initial", written.initial().as_deref())?,
        last: cpus("final", written.cpu_affinity_final().as_deref())?,
    })
}

fn cpus(name: &str, list: Option<&str>) -> Result<Option<CpuMask>> {
    let Some(list) = list.filter(|l| !l.is_empty()) else {
        return Ok(None);
    };
    let property = || format!("process.execCPUAffinity.{name}");
    let ranges = ranges(list).with_context(property)?;
    ensure!(
        !ranges.is_empty(),
        "{}: no members found in set {list:?}",
        property()
    );
    Ok(Some(
        mask(&ranges).iter().flat_map(|w| w.to_le_bytes()).collect(),
    ))
}

/// `linux.memoryPolicy`, by the rules of set_mempolicy(2).
pub fn memory_policy(written: &spec::LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    let mode = written.mode();
    let list = written.nodes().as_deref().unwrap_or_default();
    let ranges = ranges(list).context("linux.memoryPolicy.nodes: invalid memory policy node")?;
    ensure!(
        list.is_empty() || !ranges.is_empty(),
        "linux.memoryPolicy.nodes: no members found in set {list:?}"
    );
    let nodes = mask(&ranges);
    let number = match mode {
        MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal => {
            let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
            ensure!(
                count == 0,
                "linux.memoryPolicy.nodes: memory policy mode requires 0 nodes but got {count}"
            );
            if mode == MemoryPolicyModeType::MpolDefault {
                libc::MPOL_DEFAULT
            } else {
                libc::MPOL_LOCAL
            }
        }
        MemoryPolicyModeType::MpolPreferred => libc::MPOL_PREFERRED,
        MemoryPolicyModeType::MpolBind => libc::MPOL_BIND,
        MemoryPolicyModeType::MpolInterleave => libc::MPOL_INTERLEAVE,
        MemoryPolicyModeType::MpolPreferredMany => MPOL_PREFERRED_MANY,
        MemoryPolicyModeType::MpolWeightedInterleave => MPOL_WEIGHTED_INTERLEAVE,
    };
    ensure!(
        !nodes.is_empty()
            || matches!(
                mode,
                MemoryPolicyModeType::MpolDefault
                    | MemoryPolicyModeType::MpolLocal
                    | MemoryPolicyModeType::MpolPreferred
            ),
        "linux.memoryPolicy.nodes: memory policy mode requires at least one node but got 0"
    );
    let flags = written.flags().as_deref().unwrap_or_default();
    Ok(MemoryPolicy {
        mode: flags.iter().fold(number, |mode, flag| {
            mode | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => libc::MPOL_F_NUMA_BALANCING,
                MemoryPolicyFlagType::MpolFRelativeNodes => libc::MPOL_F_RELATIVE_NODES,
                MemoryPolicyFlagType::MpolFStaticNodes => libc::MPOL_F_STATIC_NODES,
            }
        }),
        nodes,
    })
}

// include/uapi/linux/personality.h; not in libc 0.2 for every target.
const PER_LINUX: u64 = 0x0000;
const PER_LINUX32: u64 = 0x0008;

/// `linux.personality`.
pub fn personality(written: &spec::LinuxPersonality) -> Result<u64> {
    let flags = written.flags().as_deref().unwrap_or_default();
    ensure!(
        flags.is_empty(),
        "linux.personality.flags: {flags:?} are not supported, none are"
    );
    Ok(match written.domain() {
        spec::LinuxPersonalityDomain::PerLinux => PER_LINUX,
        spec::LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    })
}
