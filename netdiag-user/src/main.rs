fn main() {
    let (s, mut ring) = netdiag::kernel::loader::Session::start(netdiag::kernel::loader::Options { follow_processes: true, all: true }).unwrap();
    for p in &s.probes { println!("{} {} {:?} {:?}", p.probe.name, p.probe.program, p.attached, p.failures); }
    println!("absent {:?}", s.absent_fields);
    std::thread::sleep(std::time::Duration::from_secs(5));
    while let Some(r) = ring.next() { println!("{} {:?}", r.len(), &r[..16.min(r.len())]); }
    println!("{:?}", s.counters());
}
