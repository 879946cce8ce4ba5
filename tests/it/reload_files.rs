//! The built program follows its file: at once when it is told to, soon when nobody says a word.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::harness::{binary::Binary, client::Client, gateway::MASTER_KEY, soon, tls::Authority, upstream::Upstream};

fn yaml(upstream: &Upstream, public: &str, routes: &[&str]) -> String {
    let route = |name: &&str| {
        format!("  - {{name: {name}, match: {{path: \"/{name}/{{*rest}}\"}}, auth: none, cluster: rag}}\n")
    };
    format!(
        "listeners: {{public: {{bind: \"127.0.0.1:0\"{public}}}, admin: {{bind: \"127.0.0.1:0\"}}}}\n\
         tokens: {{issuer: \"https://gw.test\"}}\npasswords: {{hash_threads: 1}}\n\
         clusters: {{rag: {{endpoints: [\"{}\"]}}}}\nroutes:\n{}",
        upstream.url(),
        routes.iter().map(route).collect::<String>()
    )
}

struct Project(TempDir);

impl Project {
    fn new(yaml: &str) -> Self {
        let project = Self(TempDir::new().unwrap());
        project.write(yaml);
        project
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, yaml: &str) {
        fs::write(self.at("gateway.yaml"), yaml).unwrap();
    }

    async fn serve(&self) -> Binary {
        Binary::serve(&self.at("gateway.yaml"), &HashMap::new()).await
    }
}

async fn metrics(gateway: &Binary) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asking = client.get(format!("http://{}/metrics", gateway.admin)).send();
    soon("the metrics", asking).await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_reload_that_switches_on_a_profile_which_weakens_rules_warns_of_it() {
    const ON: &str = "portal: {compat: fastapi}\n";
    let upstream = Upstream::start().await;
    let plain = |routes: &[&str]| yaml(&upstream, "", routes);
    let project = Project::new(&plain(&["one"]));
    let gateway = project.serve().await;
    let reloaded = async |yaml: &str, key: &str| {
        project.write(yaml);
        gateway.hang_up();
        gateway.logged(key, |line| line.contains("was reloaded") && line.contains(key)).await;
        let warned = |line: &&String| line.contains("\"WARN\"") && line.contains("portal.compat: fastapi is on");
        gateway.log().iter().filter(warned).count()
    };
    assert_eq!(reloaded(&plain(&["one", "two"]), "+routes[two]").await, 0);
    assert_eq!(reloaded(&(plain(&["one", "two"]) + ON), "portal.compat").await, 1);
    let client = gateway.client();
    client.get("/auth/me").send().await.refused(403, "credentials_missing");
    let short = serde_json::json!({"email": "ann@example.org", "password": "password"});
    client.post("/auth/signup").json(&short).send().await.refused(422, "validation");
    assert_eq!(reloaded(&(plain(&["one", "three"]) + ON), "+routes[three]").await, 1, "it is on already");
}

#[tokio::test]
async fn sighup_reloads_and_says_what_changed() {
    let upstream = Upstream::start().await;
    let project = Project::new(&yaml(&upstream, "", &["one"]));
    let gateway = project.serve().await;
    gateway.hang_up();
    // Only a signal is answered when nothing has changed: the file's poll keeps silent.
    gateway.logged("an answer to the signal", |line| line.contains("nothing has changed")).await;
    project.write(&yaml(&upstream, "", &["two"]));
    gateway.hang_up();
    let told = gateway.logged("the reload", |line| line.contains("the configuration was reloaded")).await;
    assert!(told.contains("-routes[one], +routes[two]"), "{told}");
    gateway.client().get("/two/a").send().await.expect(200);
    gateway.client().get("/one/a").send().await.refused(404, "no_route");
    gateway.terminate();
    assert_eq!(gateway.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_changed_file_is_taken_without_a_word_and_a_broken_one_is_not() {
    let upstream = Upstream::start().await;
    let good = yaml(&upstream, "", &["one"]);
    let project = Project::new(&good);
    let gateway = project.serve().await;
    project.write(&good.replace("cluster: rag", "cluster: rga"));
    let told = gateway.logged("the mistake", |line| line.contains("no cluster is named")).await;
    for part in ["\"level\":\"ERROR\"", "\"line\":6", "\"key\":\"routes[0].cluster\"", "\"suggestion\":\"rag\""] {
        assert!(told.contains(part), "{part}: {told}");
    }
    gateway.logged("that the last good one stays", |line| line.contains("stays in force")).await;
    gateway.client().get("/one/a").send().await.expect(200);
    let text = metrics(&gateway).await;
    assert!(text.contains("portcullis_config_reloads_total{result=\"broken\"} 1\n"), "{text}");
    assert!(text.contains("portcullis_config_last_reload_successful 0\n"), "{text}");

    // As editors do it: a new file in the old one's place.
    let next = yaml(&upstream, "", &["one", "two"]);
    fs::write(project.at("new"), &next).unwrap();
    fs::rename(project.at("new"), project.at("gateway.yaml")).unwrap();
    gateway.logged("the reload", |line| line.contains("+routes[two]")).await;
    gateway.client().get("/two/a").send().await.expect(200);
    let text = metrics(&gateway).await;
    assert!(text.contains("portcullis_config_reloads_total{result=\"applied\"} 1\n"), "{text}");
    assert!(text.contains("portcullis_config_last_reload_successful 1\n"), "{text}");
    let mistakes = gateway.log().into_iter().filter(|line| line.contains("no cluster is named")).count();
    assert_eq!(mistakes, 1, "a mistake is told once, however often the file is looked at");
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing_and_its_return_is_told() {
    let upstream = Upstream::start().await;
    let good = yaml(&upstream, "", &["one"]);
    let project = Project::new(&good);
    let gateway = project.serve().await;
    fs::remove_file(project.at("gateway.yaml")).unwrap();
    let told = gateway.logged("the loss", |line| line.contains("cannot be read")).await;
    assert!(told.contains("\"ERROR\""), "{told}");
    gateway.client().get("/one/a").send().await.expect(200);
    project.write(&good);
    gateway.logged("the return", |line| line.contains("nothing has changed")).await;
    let text = metrics(&gateway).await;
    assert!(text.contains("portcullis_config_reloads_total{result=\"unchanged\"} 1\n"), "{text}");
    assert!(text.contains("portcullis_config_last_reload_successful 1\n"), "{text}");
}

#[tokio::test]
async fn what_could_not_be_read_for_want_of_a_descriptor_is_taken_later() {
    let upstream = Upstream::start().await;
    let project = Project::new(&yaml(&upstream, "", &["one"]));
    let gateway = project.serve().await;
    let none_left = gateway.without_descriptors();
    project.write(&yaml(&upstream, "", &["one", "two"]));
    gateway.logged("that it cannot be read", |line| line.contains("Too many open files")).await;
    drop(none_left);
    // Nobody touches the file again.
    gateway.logged("the reload", |line| line.contains("+routes[two]")).await;
    gateway.client().get("/two/a").send().await.expect(200);
}

/// A folder as Kubernetes mounts it: the files are links through `..data`, which is exchanged as one.
fn mount(folder: &Path, version: &str, files: &[(&str, &str)]) {
    fs::create_dir(folder.join(version)).unwrap();
    for (name, text) in files {
        fs::write(folder.join(version).join(name), text).unwrap();
        if !folder.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
    }
    symlink(version, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test]
async fn certificates_that_kubernetes_exchanges_are_taken() {
    let upstream = Upstream::start().await;
    let (first, second) = (Authority::new(), Authority::new());
    let (one, two) = (first.certify("localhost"), second.certify("localhost"));
    let project = Project::new(&yaml(&upstream, ", tls: {certificate: tls/tls.crt, key: tls/tls.key}", &["one"]));
    let tls = project.at("tls");
    fs::create_dir(&tls).unwrap();
    mount(&tls, "v1", &[("tls.crt", &one.certificate), ("tls.key", &one.key)]);
    let gateway = project.serve().await;
    let client = |authority: &Authority| {
        Client::tls(&format!("https://localhost:{}", gateway.public.port()), &gateway.invariants, authority.pem())
    };
    client(&first).get("/one/a").send().await.expect(200);
    mount(&tls, "v2", &[("tls.crt", &two.certificate), ("tls.key", &two.key)]);
    let told = gateway.logged("the reload", |line| line.contains("the configuration was reloaded")).await;
    assert!(told.contains("listeners.public.tls.certificate, listeners.public.tls.key"), "{told}");
    client(&second).get("/one/a").send().await.expect(200);
}

#[tokio::test]
async fn another_master_key_needs_a_restart_and_is_not_printed() {
    const OTHER: &str = "n83vASNFZ4mrze/+3LqYdlQyEBEiM0RVZneImaq7zN0=";
    let upstream = Upstream::start().await;
    let text = yaml(&upstream, "", &["one"]);
    let project = Project::new(&format!("store: {{master_key: {{file: master}}}}\n{text}"));
    fs::write(project.at("master"), MASTER_KEY).unwrap();
    let gateway = project.serve().await;
    fs::write(project.at("master"), OTHER).unwrap();
    let told = gateway.logged("the refusal", |line| line.contains("needs a restart")).await;
    assert!(told.contains("\"WARN\"") && told.contains("store.master_key"), "{told}");
    gateway.client().get("/one/a").send().await.expect(200);
    let text = metrics(&gateway).await;
    assert!(text.contains("portcullis_config_reloads_total{result=\"needs_restart\"} 1\n"), "{text}");
    let printed = gateway.log().concat();
    assert!(!printed.contains(MASTER_KEY) && !printed.contains(OTHER), "{printed}");
}

#[tokio::test]
async fn the_metrics_tell_which_file_is_in_force() {
    let upstream = Upstream::start().await;
    let project = Project::new(&yaml(&upstream, "", &["one"]));
    let gateway = project.serve().await;
    let sum = std::process::Command::new("sha256sum").arg(project.at("gateway.yaml")).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap().split_whitespace().next().unwrap().to_owned();
    let text = metrics(&gateway).await;
    assert!(text.contains(&format!("portcullis_config_info{{sha256=\"{sum}\"}} 1\n")), "{text}");
    let stamp =
        text.lines().find_map(|line| line.strip_prefix("portcullis_config_last_reload_success_timestamp_seconds "));
    assert!(stamp.unwrap().parse::<f64>().unwrap() > 1.7e9, "{stamp:?}");
}
