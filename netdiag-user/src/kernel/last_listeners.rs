//! Who listened last at an address and port.

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use netdiag_ebpf::records::{LastListener, LastListenerKey};

use super::KernelError;
use super::in_map::InMap;

/// See the module's documentation.
pub struct LastListeners(BpfHashMap<MapData, InMap<LastListenerKey>, InMap<LastListener>>);

impl std::fmt::Debug for LastListeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LastListeners")
    }
}

impl LastListeners {
    pub(super) fn new(map: Map) -> Result<Self, KernelError> {
        Ok(Self(BpfHashMap::try_from(map)?))
    }

    /// Those of a port.
    pub fn of_port(&self, port: u16) -> Vec<(LastListenerKey, LastListener)> {
        let keys = self.0.keys().flatten().filter(|InMap(key)| key.port == port);
        keys.filter_map(|key| Some((key.0, self.0.get(&key, 0).ok()?.0))).collect()
    }
}
