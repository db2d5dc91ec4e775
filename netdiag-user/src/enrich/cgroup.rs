//! What the path of a control group tells about a process: systemd unit, container, pod.
//!
//! `/proc/PID/cgroup` has a line `HIERARCHY:CONTROLLERS:PATH` per hierarchy (cgroups(7)): `0::PATH` is the
//! unified one (v2). On a hybrid machine systemd and container engines may use v2, v1 or both, and leave
//! the others at the root.

/// What could be read from `/proc/PID/cgroup`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cgroup {
    pub(super) path: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) container: Option<String>,
    pub(super) pod: Option<String>,
}

/// Parses the text of `/proc/PID/cgroup`.
pub(super) fn parse(text: &str) -> Cgroup {
    let mut paths: Vec<(u8, &str)> = text.lines().filter_map(hierarchy).collect();
    // A stable sort: among equals the kernel's order stays.
    paths.sort_by_key(|(rank, _)| *rank);
    let search = |find: fn(&str) -> Option<String>| paths.iter().find_map(|(_, path)| find(path));
    Cgroup {
        path: paths
            .iter()
            .find(|(_, path)| *path != "/")
            .or(paths.first())
            .map(|(_, path)| (*path).to_owned()),
        unit: search(unit),
        container: search(container),
        pod: search(pod),
    }
}

/// How telling a hierarchy is (v2, then systemd's own, then any other), and the path in it.
fn hierarchy(line: &str) -> Option<(u8, &str)> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let rank = match (id, controllers) {
        ("0", "") => 0,
        (_, "name=systemd") => 1,
        _ => 2,
    };
    Some((rank, path))
}

/// The innermost unit that is not a slice. systemd puts a `_` before names that it must escape.
fn unit(path: &str) -> Option<String> {
    let is_unit = |component: &&str| {
        let suffix = component.rsplit_once('.').map(|(_, suffix)| suffix);
        matches!(suffix, Some("service" | "scope" | "socket" | "mount" | "swap"))
    };
    let component = path.rsplit('/').find(is_unit)?;
    Some(component.strip_prefix('_').unwrap_or(component).to_owned())
}

/// The innermost 64-digit container id: `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `/docker/ID`,
/// `SLICE:cri-containerd:ID`... A container's monitor (`libpod-conmon-ID`) is not in the container.
fn container(path: &str) -> Option<String> {
    path.rsplit('/').find_map(|component| {
        let name = component.strip_suffix(".scope").unwrap_or(component);
        let (engine, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
        (is_hex(id, 64) && !engine.ends_with("conmon")).then(|| id.to_owned())
    })
}

/// `kubepods-burstable-podUID.slice` (systemd driver, `_` for `-`), `/kubepods/burstable/podUID` (cgroupfs
/// driver) or podman's `machine-libpod_pod_ID.slice`.
fn pod(path: &str) -> Option<String> {
    path.rsplit('/').find_map(|component| {
        let name = component.split(':').next()?;
        let name = name.strip_suffix(".slice").unwrap_or(name);
        if let Some((_, id)) = name.rsplit_once("libpod_pod_") {
            return is_hex(id, 64).then(|| id.to_owned());
        }
        let uid = match name.rsplit_once("-pod") {
            Some((parent, uid)) if parent.contains("kubepods") => uid,
            _ => name.strip_prefix("pod").filter(|_| path.contains("kubepods"))?,
        };
        let uid = uid.replace('_', "-");
        let digits = uid.replace('-', "");
        is_hex(&digits, 32).then_some(uid)
    })
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1f0ec81e8c1a9d0a7b5d52d3c3b4a5968778695a4b3c2d1e0f00112233445566";
    const UID: &str = "6f1c2a3b-4d5e-4f60-8172-8394a5b6c7d8";

    fn v2(path: &str) -> Cgroup {
        parse(&format!("0::{path}\n"))
    }

    #[test]
    fn units() {
        assert_eq!(v2("/system.slice/nginx.service").unit.as_deref(), Some("nginx.service"));
        assert_eq!(v2("/system.slice/nginx.service/worker").unit.as_deref(), Some("nginx.service"));
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.service";
        assert_eq!(v2(user).unit.as_deref(), Some("app-x.service"));
        assert_eq!(v2("/user.slice/user-0.slice/session-3.scope").unit.as_deref(), Some("session-3.scope"));
        assert_eq!(v2("/system.slice/_cpu.service").unit.as_deref(), Some("cpu.service"));
        assert_eq!(v2("/user.slice").unit, None);
        assert_eq!(v2("/"), Cgroup { path: Some("/".to_owned()), ..Cgroup::default() });
        assert_eq!(parse("garbage\n1:\n"), Cgroup::default());
    }

    #[test]
    fn containers() {
        let paths = [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/docker/{ID}/init.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/system.slice/crio-{ID}.scope"),
            format!("/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:{ID}"),
            format!("/docker/{}/kubelet/kubepods/pod{UID}/{ID}", ID.replace('1', "2")),
        ];
        for path in paths {
            assert_eq!(v2(&path).container.as_deref(), Some(ID), "{path}");
        }
        assert_eq!(v2(&format!("/machine.slice/libpod-conmon-{ID}.scope")).container, None);
        assert_eq!(v2("/docker/short").container, None);
    }

    #[test]
    fn pods() {
        let escaped = UID.replace('-', "_");
        let systemd = format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/cri-containerd-{ID}.scope"
        );
        let cgroup = v2(&systemd);
        assert_eq!(cgroup.pod.as_deref(), Some(UID));
        assert_eq!(cgroup.container.as_deref(), Some(ID));
        assert_eq!(v2(&format!("/kubepods/burstable/pod{UID}/{ID}")).pod.as_deref(), Some(UID));
        let fixed = UID.replace('-', "");
        assert_eq!(v2(&format!("/kubepods/besteffort/pod{fixed}/{ID}")).pod, Some(fixed));
        let podman = format!("/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope");
        assert_eq!(v2(&podman).pod.as_deref(), Some(ID));
        assert_eq!(v2("/system.slice/podman.service").pod, None);
        assert_eq!(v2("/kubepods/podless").pod, None);
    }

    #[test]
    fn hybrid_and_v1() {
        let hybrid = format!("12:memory:/docker/{ID}\n1:name=systemd:/system.slice/docker.service\n0::/\n");
        let cgroup = parse(&hybrid);
        assert_eq!(cgroup.path.as_deref(), Some("/system.slice/docker.service"));
        assert_eq!(cgroup.unit.as_deref(), Some("docker.service"));
        assert_eq!(cgroup.container.as_deref(), Some(ID));

        let v1 = parse("4:memory:/a:b/c\n3:cpu,cpuacct:/\n");
        assert_eq!(v1.path.as_deref(), Some("/a:b/c"));
    }
}
