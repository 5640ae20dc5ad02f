//! Real servers of object storage on loopback: installed once into the target folder, started once per test process on
//! ports that they choose, shared by all tests, each of which has a bucket of its own.
//!
//! What must hold: a server does not outlive the process that started it, however that ends. Its supervisor is a shell that
//! waits for the end of its standard input, whose other end only the test process has.
//!
//! | server | speaks | needs |
//! |---|---|---|
//! | moto | S3 | Python |
//! | ministack | S3, another implementation | Python |
//! | azurite | Azure Blob | Node |
//! | a fake of this repository | Google Cloud Storage | nothing |
//!
//! Without Python or Node the tests say that they were skipped; where `CI` is `true`, or
//! `ARC_REQUIRE_OBJECT_STORES` is `1`, that is a failure.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc::config::{Config, Input};
use arc::storage::Storage;
use arc::storage::settings::Patience;

use super::again;
use super::fake_gcs::FakeGcs;

const MOTO: &str = "moto[s3,server]==5.2.5";
const MINISTACK: &str = "ministack==1.5.33";
const AZURITE: &str = "azurite@3.35.0";

/// The account that Azurite has, and its published key.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// What the servers for S3 take for a signature.
const SIGNATURE: &str =
    "AWS4-HMAC-SHA256 Credential=test/20251008/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// Of signatures.
const SAS_VERSION: &str = "2020-08-04";
const SAS_END: &str = "2099-01-01T00:00:00Z";
const SAS_END_IN_URL: &str = "2099-01-01T00%3A00%3A00Z";

/// A server of object storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Moto,
    Ministack,
    Azurite,
    /// Not a real one.
    FakeGcs,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Moto, Self::Ministack, Self::Azurite, Self::FakeGcs];

    /// A new bucket on the running server. `None`: there can be no such server here, which has been said.
    pub fn bucket(self) -> Option<Bucket> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let server = self.server()?;
        let name = format!("arc-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        server.create_bucket(self, &name);
        Some(Bucket { kind: self, name, prefix: "some/prefix".to_owned(), address: server.address.clone() })
    }

    fn server(self) -> Option<&'static Server> {
        static SERVERS: [OnceLock<Option<Server>>; 4] = [const { OnceLock::new() }; 4];
        SERVERS[self as usize]
            .get_or_init(|| match self.start() {
                Ok(server) => Some(server),
                Err(reason) => {
                    let is = |name, value| again::asked(name).is_some_and(|said| said == value);
                    let required = is("CI", "true") || is("ARC_REQUIRE_OBJECT_STORES", "1");
                    assert!(!required, "the tests on {self:?} must run here: {reason}");
                    #[allow(clippy::print_stderr, reason = "nobody should believe that these tests have run")]
                    {
                        eprintln!("\n*** SKIPPED: the tests on {self:?}, because {reason} ***\n");
                    }
                    None
                }
            })
            .as_ref()
    }

    fn start(self) -> Result<Server, String> {
        match self {
            Self::Moto => {
                let python = python()?;
                let command = [&*python, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"].map(str::to_owned);
                Server::start(&command, &[], "Running on http://")
            }
            Self::Ministack => {
                let python = python()?;
                let environment = [
                    ("BIND_HOST", "127.0.0.1"),
                    ("GATEWAY_PORT", "0"),
                    ("SERVICES", "s3"),
                    ("IOT_MTLS_ENABLED", "false"),
                    ("SFTP_ENABLED", "false"),
                ];
                // Not the script beside it, which has the folder's first path in it: target folders are moved and copied.
                let command = [&*python, "-m", "ministack"].map(str::to_owned);
                Server::start(&command, &environment, "Running on http://")
            }
            Self::Azurite => {
                let program = azurite()?;
                let flags =
                    "--inMemoryPersistence --skipApiVersionCheck --disableTelemetry --blobHost 127.0.0.1 --blobPort 0";
                let command: Vec<_> =
                    ["node", &program].into_iter().chain(flags.split(' ')).map(str::to_owned).collect();
                let mut server = Server::start(&command, &[], "successfully listens on http://")?;
                server.sas = Some(account_sas()?);
                Ok(server)
            }
            Self::FakeGcs => Ok(Server { address: FakeGcs::start(), supervisor: None, sas: None }),
        }
    }
}

/// A running server.
#[derive(Debug)]
struct Server {
    address: String,
    /// Kept for its standard input, which ends with this process.
    #[allow(dead_code, reason = "what counts is that it is not dropped")]
    supervisor: Option<Child>,
    /// Azure: the query that lets containers be made.
    sas: Option<String>,
}

impl Server {
    /// Starts a server and waits for the line in which it says where it listens, which ends with `ready` and the address.
    fn start(command: &[String], environment: &[(&str, &str)], ready: &str) -> Result<Self, String> {
        // The supervisor gives up its own ends of the pipes, so that the end of a server that cannot start is seen.
        const SUPERVISE: &str = "\"$@\" & server=$!; exec >/dev/null 2>&1; cat; kill -9 $server";
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISE, "supervisor"])
            .args(command)
            .envs(environment.iter().copied())
            .current_dir(folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{command:?} cannot be started: {e}"))?;
        let (sender, lines) = std::sync::mpsc::channel();
        let (out, err) = (supervisor.stdout.take().unwrap(), supervisor.stderr.take().unwrap());
        let errors = sender.clone();
        // The pipes are read for as long as the server lives: one that nobody reads would stop it.
        std::thread::spawn(move || forward(out, &sender));
        std::thread::spawn(move || forward(err, &errors));
        let mut said = Vec::new();
        while let Ok(line) = lines.recv() {
            if let Some((_, rest)) = line.split_once(ready) {
                let address = rest.split_whitespace().next().unwrap_or_default().to_owned();
                return Ok(Self { address, supervisor: Some(supervisor), sas: None });
            }
            said.push(line);
        }
        panic!("{command:?} ended without saying where it listens: {said:#?}");
    }

    fn create_bucket(&self, kind: Kind, name: &str) {
        let address = &self.address;
        let url = match kind {
            Kind::Azurite => {
                let sas = self.sas.as_deref().unwrap();
                format!("http://{address}/{AZURITE_ACCOUNT}/{name}?restype=container&{sas}")
            }
            _ => format!("http://{address}/{name}"),
        };
        let mut request = ureq::put(&url);
        if kind != Kind::Azurite {
            request = request.header("authorization", SIGNATURE);
        }
        request.send_empty().unwrap_or_else(|e| panic!("{kind:?}: bucket {name}: {e}"));
    }
}

fn forward(pipe: impl std::io::Read, to: &std::sync::mpsc::Sender<String>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        // After the start nobody listens, and the pipe must be emptied all the same.
        let _ = to.send(line);
    }
}

/// A bucket of one test.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub kind: Kind,
    pub name: String,
    /// Everything of this service lies below it.
    pub prefix: String,
    /// Host and port: the server's, or a proxy's before it.
    pub address: String,
}

impl Bucket {
    /// The same bucket, seen through another address.
    pub fn through(&self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self.clone() }
    }

    /// The same bucket, with another prefix.
    pub fn at(&self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self.clone() }
    }

    /// Puts an object there whose key need not be a path.
    pub fn put_as_it_is(&self, key: &str) {
        let mut request = ureq::put(&self.url_of(key)).header("x-ms-blob-type", "BlockBlob");
        if self.kind != Kind::Azurite {
            request = request.header("authorization", SIGNATURE);
        }
        request.send("odd").unwrap();
        assert!(self.is_there_as_it_is(key), "{:?}: {key}", self.kind);
    }

    pub fn is_there_as_it_is(&self, key: &str) -> bool {
        let mut request = ureq::get(&self.url_of(key));
        if self.kind != Kind::Azurite {
            request = request.header("authorization", SIGNATURE);
        }
        request.call().is_ok_and(|mut answer| answer.body_mut().read_to_string().is_ok_and(|text| text == "odd"))
    }

    fn url_of(&self, key: &str) -> String {
        let Self { kind, name, prefix, address } = self;
        match kind {
            Kind::Azurite => format!("http://{address}/{AZURITE_ACCOUNT}/{name}/{prefix}/{key}?{}", self.sas("rwl")),
            _ => format!("http://{address}/{name}/{prefix}/{key}"),
        }
    }

    /// A signature for this container of Azurite, with these rights.
    pub fn sas(&self, rights: &str) -> String {
        let resource = format!("/blob/{AZURITE_ACCOUNT}/{}", self.name);
        let signed = [rights, "", SAS_END, &resource, "", "", "https,http", SAS_VERSION, "c", "", "", "", "", "", ""];
        let signature = signature(&signed.join("\n")).unwrap();
        format!("sv={SAS_VERSION}&sr=c&sp={rights}&se={SAS_END_IN_URL}&spr=https,http&sig={signature}")
    }

    /// The section of the configuration that names the bucket. GCS needs a file for it.
    pub fn section(&self, folder: &Path) -> String {
        let Self { kind, name, prefix, address } = self;
        match kind {
            Kind::Moto | Kind::Ministack => format!(
                "[storage]\nbackend = 'minio'\n[storage.minio]\nbucket = '{name}'\nprefix = '{prefix}'\n\
                 endpoint = '{address}'\nuse_ssl = false\naccess_key = 'test'\nsecret_key = 'secret'\n"
            ),
            Kind::Azurite => format!(
                "[storage]\nbackend = 'azure'\n[storage.azure]\ncontainer = '{name}'\nprefix = '{prefix}'\n\
                 account = '{AZURITE_ACCOUNT}'\naccess_key = '{AZURITE_KEY}'\nendpoint = 'http://{address}/{AZURITE_ACCOUNT}'\n"
            ),
            Kind::FakeGcs => {
                let file = folder.join("gcs.json");
                let json = serde_json::json!({
                    "gcs_base_url": format!("http://{address}"), "disable_oauth": true, "client_email": "", "private_key": "",
                    "private_key_id": "",
                });
                fs::write(&file, json.to_string()).unwrap();
                format!(
                    "[storage]\nbackend = 'gcs'\n[storage.gcs]\nbucket = '{name}'\nprefix = '{prefix}'\ncredentials_file = '{}'\n",
                    file.display()
                )
            }
        }
    }

    /// The storage that the configuration names.
    pub fn storage(&self) -> Storage {
        self.patient(&Patience::default())
    }

    /// The same, with another patience than the service has.
    pub fn patient(&self, patience: &Patience) -> Storage {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("arc.conf");
        fs::write(&file, self.section(folder.path())).unwrap();
        let config = Config::load(&Input { file: Some(file), ..Input::default() }).unwrap();
        let storage = &config.storage;
        match self.kind {
            Kind::Moto | Kind::Ministack => Storage::s3(&storage.minio, patience),
            Kind::Azurite => Storage::azure(&storage.azure, patience),
            Kind::FakeGcs => Storage::gcs(&storage.gcs, patience),
        }
        .unwrap()
    }
}

/// The folder of the installed servers: beside everything else that is built, so that it is there the next time.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("object-stores");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Installs something once, whoever and however many processes want it at the same moment. `name` changes with the version.
fn installed(name: &str, install: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let target = folder().join(name);
    let marker = target.join("installed");
    let lock = fs::File::create(folder().join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    if !marker.exists() {
        let _ = fs::remove_dir_all(&target);
        fs::create_dir_all(&target).unwrap();
        #[allow(clippy::print_stderr, reason = "this takes a minute, once")]
        {
            eprintln!("installing {name} into {}", target.display());
        }
        install(&target)?;
        fs::write(marker, "").unwrap();
    }
    Ok(target)
}

/// The Python of an environment that has both S3 servers.
fn python() -> Result<String, String> {
    let name = format!("python-{}", [MOTO, MINISTACK].join("-").replace(['[', ']', ',', '='], "_"));
    let target = installed(&name, |target| {
        run("python3", &["-m", "venv", &target.display().to_string()])?;
        let python = target.join("bin/python").display().to_string();
        run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO, MINISTACK])
    })?;
    Ok(target.join("bin/python").display().to_string())
}

/// The program of Azurite's blob service, for Node.
fn azurite() -> Result<String, String> {
    let target = installed(&AZURITE.replace('@', "-"), |target| {
        run("node", &["--version"])?;
        let target = target.display().to_string();
        run("npm", &["install", "--prefix", &target, "--no-audit", "--no-fund", "--loglevel=error", AZURITE])
    })?;
    Ok(target.join("node_modules/azurite/dist/src/blob/main.js").display().to_string())
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program} cannot be started: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// A signature of the account, with which containers can be made without signing each request.
fn account_sas() -> Result<String, String> {
    let signed = [AZURITE_ACCOUNT, "rwdlac", "b", "sco", "", SAS_END, "", "https,http", SAS_VERSION, ""];
    let signature = signature(&signed.join("\n"))?;
    Ok(format!("sv={SAS_VERSION}&ss=b&srt=sco&sp=rwdlac&se={SAS_END_IN_URL}&spr=https,http&sig={signature}"))
}

/// What the key of the account makes of a text, for a URL. Node is there, or there would be no Azurite.
fn signature(text: &str) -> Result<String, String> {
    let text = serde_json::Value::from(text);
    let script = format!(
        "const key = Buffer.from('{AZURITE_KEY}', 'base64');
         const sig = require('crypto').createHmac('sha256', key).update({text}).digest('base64');
         console.log(encodeURIComponent(sig));"
    );
    let mut node =
        Command::new("node").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    node.stdin.take().unwrap().write_all(script.as_bytes()).map_err(|e| e.to_string())?;
    let output = node.wait_with_output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
