//! What README.md says of the environment is so. Not here: options and files.

use serde_json::json;

use crate::harness::{Run, assert_in_sync};
use crate::image::Maker;
use crate::registry::FakeRegistry;

#[test]
fn a_registry_on_this_machine_is_reached_without_the_proxy() {
    let (source, target) = (FakeRegistry::new(), FakeRegistry::new());
    source.push("a", "v1", &Maker::new(1).oci(&[100]));
    let nobody = "http://proxy.invalid:1";
    for variable in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
        let auth = json!({ target.addr().to_string(): { "insecure": true } });
        let images = json!({ source.name("a"): target.name(&variable.to_lowercase()) });
        Run::new()
            .config(json!({ "auth": auth, "images": images }))
            .arg("--retries=0")
            .env("IMAGE_SYNCER_TIME_SCALE", "0.01")
            .env(variable, nobody)
            .run()
            .expect(0);
        let tags = ["v1"];
        assert_in_sync(&source, "a", &target, &variable.to_lowercase(), &tags);
    }
}
