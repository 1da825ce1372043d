//! An OPC UA server that we did not write, which can be told, killed and started again with other namespaces, and a site that watches it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::SOON;
use crate::folder::Folder;
use crate::peers::Peer;
use crate::process::Process;

/// The driver promises to be back so soon after the server is.
pub const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Whose server it is. Both have the same nodes, as far as they go, and take the same commands (`tests/peers`).
#[derive(Clone, Copy, Debug)]
pub enum Server {
    Asyncua,
    NodeOpcua,
}

/// A server, and what it takes to start it again at the same place.
pub struct Plant {
    server: Server,
    folder: PathBuf,
    process: Process,
    pub port: u16,
    certificate: PathBuf,
    key: PathBuf,
}

impl Plant {
    /// With so many variables `Item.0`, `Item.1`, … besides.
    pub fn start(server: Server, folder: &Folder, items: u32) -> Self {
        let (certificate, key) = (folder.path("plant.der"), folder.path("plant.pem"));
        let made = Peer::Openssl
            .command()
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=plant",
                "-outform",
                "DER",
            ])
            .args(["-addext", "subjectAltName=URI:urn:plant:server,IP:127.0.0.1"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let place = folder.path("");
        let (process, port) = serve(server, &place, 0, 0, (&certificate, &key), items);
        Self { server, folder: place, process, port, certificate, key }
    }

    /// `kill -9`, and another one with so many namespaces before the plant's.
    pub fn kill_and_restart(&mut self, fillers: u32) {
        self.kill();
        self.restart(fillers);
    }

    pub fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.finish(SOON);
    }

    pub fn restart(&mut self, fillers: u32) {
        let own = (&*self.certificate, &*self.key);
        (self.process, _) = serve(self.server, &self.folder, self.port, fillers, own, 0);
    }

    pub fn tell(&mut self, command: &str) {
        self.process.write_line(command);
        self.process.line_where(SOON, command, |line| (line == "ok").then_some(()));
    }
}

fn serve(
    server: Server,
    folder: &Path,
    port: u16,
    fillers: u32,
    (certificate, key): (&Path, &Path),
    items: u32,
) -> (Process, u16) {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
    let (name, mut command) = match server {
        Server::Asyncua => {
            let mut command = Peer::Asyncua.command();
            command.arg(peers.join("asyncua_server.py"));
            ("asyncua", command)
        }
        Server::NodeOpcua => {
            let mut command = Peer::NodeOpcua.command();
            command.arg(peers.join("node_opcua_server.js")).arg(folder);
            ("node-opcua", command)
        }
    };
    command.args([port.to_string(), fillers.to_string()]).args([certificate, key]).arg(items.to_string());
    let mut process = Process::start(name, &mut command);
    let port = process.line_where(SOON, "listening", |line| line.strip_prefix("listening ")?.parse().ok());
    (process, port)
}

/// Watches each 100 ms, and polls what has `rate: slow` each 200 ms.
pub fn site(folder: &Folder, plant: &Plant, connection: &str, points: &str, broker: u16) -> PathBuf {
    folder.write(
        "site.yaml",
        &format!(
            "site: hall\nconnections:\n  line: {{opcua: \"opc.tcp://127.0.0.1:{}/plant\"{connection}}}\ndevices:\n  press:\n    via: line\n    \
             namespace: urn:plant\n    every: {{slow: 200ms}}\n    subscribe: 100ms\n    points:\n{points}\
             publish: {{cloud: {{mqtt: \"mqtt://127.0.0.1:{broker}\"}}}}\n",
            plant.port
        ),
    )
}
