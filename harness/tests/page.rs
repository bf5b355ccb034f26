//! The page in a browser: opened from its file, on a phone's width and a wide one, and clicked through.
//!
//! What its cells say is tested without a browser, in `reports.rs`. The browser is Debian's Chromium, moved through its
//! driver; it has no network, and the page must not miss it.

mod made_up;
#[expect(dead_code, reason = "some of it is for tests that boot kernels")]
mod ring;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::error::CmdError;
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use harness::report::html;
use hyper_util::client::legacy::connect::HttpConnector;
use libtest_mimic::{Arguments, Failed};
use qemu::install::Program;
use serde_json::{Value, json};

use made_up::HOSTILE;

/// It brings the browser with it.
const DRIVER: Program = Program::new("chromedriver", "chromium-driver");
/// How long the page may take to show what was clicked.
const PATIENCE: Duration = Duration::from_secs(20);

/// Widths and heights of screens.
const PHONE: (u32, u32) = (390, 844);
const WIDE: (u32, u32) = (1400, 900);

fn main() {
    let arguments = Arguments::from_args();
    let missing = if arguments.list { None } else { no_browser() };
    let trial = |name: &str, screen| ring::trial(name, missing.clone(), move || on_screen(screen));
    let trials = vec![trial("page/on_a_phone", PHONE), trial("page/on_a_wide_screen", WIDE)];
    ring::run(&arguments, trials, String::new);
}

/// Why there is no browser; `None` if there is one.
fn no_browser() -> Option<String> {
    DRIVER.ensure(&mut ring::Lines).err().map(|error| error.to_string())
}

/// The browser's driver, and the port it listens to.
struct Driver {
    process: Child,
    port: u16,
}

impl Driver {
    fn start() -> Result<Driver, Failed> {
        let path = DRIVER.find().ok_or("the driver is gone")?;
        let mut process = Command::new(path).arg("--port=0").stdout(Stdio::piped()).spawn()?;
        let said = BufReader::new(process.stdout.take().ok_or("the driver has no output")?);
        // From here on it ends with this value.
        let mut driver = Driver { process, port: 0 };
        for line in said.lines() {
            let line = line?;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                driver.port = port.trim_end_matches('.').parse()?;
                return Ok(driver);
            }
        }
        Err("the driver did not start".into())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Both fail only if it is gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Write the page, and click through it on a screen of that size.
fn on_screen((width, height): (u32, u32)) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("page.html");
    let run = made_up::events().iter().collect();
    std::fs::write(&file, html(&run, &made_up::origin())?)?;
    let driver = Driver::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities(width, height))
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await?;
        // Caught, as the browser has to be closed in any case.
        let address = format!("file://{}", file.display());
        let clicks = tokio::spawn(clicks(Browser { client: client.clone(), width }, address)).await;
        client.close().await?;
        Ok(clicks??)
    })
}

fn capabilities(width: u32, height: u32) -> serde_json::Map<String, Value> {
    let mut arguments = vec!["--headless=new", "--disable-gpu", "--disable-dev-shm-usage"];
    // Nobody answers: what the page needs it has to have.
    arguments.push("--host-resolver-rules=MAP * ~NOTFOUND");
    if nix::unistd::geteuid().is_root() {
        arguments.push("--no-sandbox");
    }
    // A window cannot be as narrow as a phone; a phone that is played heeds the page's viewport, too.
    let screen = json!({ "width": width, "height": height, "pixelRatio": 1, "touch": width < 600 });
    let options = json!({ "args": arguments, "mobileEmulation": { "deviceMetrics": screen } });
    serde_json::Map::from_iter([("goog:chromeOptions".to_string(), options)])
}

async fn clicks(page: Browser, address: String) -> Result<(), CmdError> {
    page.client.goto(&address).await?;
    assert_eq!(page.client.title().await?, "fuseproof: 6.1 6.12 7.3");
    let fetched = "return performance.getEntriesByType('resource').map(entry => entry.name)";
    assert_eq!(page.says(fetched).await?, json!([]));
    assert!(page.text(".trouble").await?.contains("no space left"));
    page.is_readable("html").await?;

    // Filters.
    let all = ["FWD-01", "IO-01", "IO-02", "MODE-01"];
    assert_eq!(page.rules().await?, all);
    page.fill("#text", "REFUSED write").await?;
    assert_eq!(page.rules().await?, ["IO-02"]);
    assert_eq!(page.text("#shown").await?, "1 of 4 rules");
    page.fill("#text", &Key::Backspace.to_string().repeat(20)).await?;
    page.choose("#group", 3).await?;
    assert_eq!(page.rules().await?, ["MODE-01"]);
    page.choose("#group", 0).await?;
    for (place, verdict, rule) in
        [(1, "lost", "MODE-01"), (3, "not run", "IO-01"), (4, "deviated", "IO-01"), (6, "skipped", "IO-02")]
    {
        page.choose("#verdict", place).await?;
        assert_eq!(page.rules().await?, [rule], "{verdict}");
    }
    page.choose("#verdict", 0).await?;
    page.click("#differs").await?;
    assert_eq!(page.rules().await?, all[1..]);
    page.click("#differs").await?;
    assert_eq!(page.rules().await?, all);

    // A cell: the case, the transcript and the difference to the neighbour.
    page.click("a[href='#/IO-01/2']").await?;
    page.shows("IO-01 on 7.3").await?;
    page.is_readable("#panel").await?;
    page.click("#panel summary").await?;
    assert_eq!(page.text("#panel details[open] pre").await?, made_up::text(0).trim_end());
    assert!(page.text("#panel").await?.contains("read f 5 -> \"hell\""));
    assert_eq!(page.text("#panel .minus").await?, "-app    read f 5 -> \"hello\"");
    assert_eq!(page.text("#panel .plus").await?, "+app    read f 5 -> \"hell\"");
    page.click("#panel nav a[href='#/IO-01/1']").await?;
    page.shows("IO-01 on 6.12").await?;
    assert!(page.text("#panel").await?.contains("Same on 6.1 and 6.12."));
    page.click("#close").await?;
    page.shows_no_panel().await?;
    assert_eq!(page.client.current_url().await?.as_str(), address);

    // A rule: its law and its history.
    page.click("a[href='#/IO-01']").await?;
    page.shows("IO-01").await?;
    assert_eq!(page.text("#law").await?, "A read gives the bytes of the file below.");
    let history = page.text(".history").await?.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(history, "6.1 deviated A 6.12 passed B 7.3 not run C");
    page.is_readable("#panel").await?;
    page.press(Key::Escape).await?;
    page.shows_no_panel().await?;

    // What a guest says is text.
    page.click("a[href='#/IO-02/1']").await?;
    page.shows("IO-02 on 6.12").await?;
    assert!(page.text("#panel").await?.contains(&HOSTILE.replace('\u{1b}', "\u{fffd}")));
    assert_eq!(page.says("return document.getElementById('harm')").await?, Value::Null);
    page.is_readable("#panel").await?;
    page.client.back().await?;
    page.shows_no_panel().await?;

    // What is shown has an address.
    page.client.goto("about:blank").await?;
    page.client.goto(&format!("{address}#/MODE-01/2")).await?;
    page.shows("MODE-01 on 7.3").await?;
    assert!(page.text("#panel").await?.contains("Kernel panic"));
    Ok(())
}

/// The page as somebody in front of the screen sees it. Elements are named by CSS selectors.
struct Browser {
    client: Client,
    width: u32,
}

impl Browser {
    async fn find(&self, selector: &str) -> Result<fantoccini::elements::Element, CmdError> {
        self.client.wait().at_most(PATIENCE).for_element(Locator::Css(selector)).await
    }

    async fn click(&self, selector: &str) -> Result<(), CmdError> {
        self.find(selector).await?.click().await
    }

    async fn fill(&self, selector: &str, keys: &str) -> Result<(), CmdError> {
        self.find(selector).await?.send_keys(keys).await
    }

    /// Choose the option at that place in a list: by keys, as a click on an option tells the page nothing here.
    async fn choose(&self, selector: &str, place: usize) -> Result<(), CmdError> {
        let down = Key::Down.to_string().repeat(place);
        self.fill(selector, &format!("{}{down}", Key::Home)).await
    }

    async fn press(&self, key: Key) -> Result<(), CmdError> {
        self.client.active_element().await?.send_keys(&key.to_string()).await
    }

    async fn text(&self, selector: &str) -> Result<String, CmdError> {
        self.find(selector).await?.text().await
    }

    async fn says(&self, script: &str) -> Result<Value, CmdError> {
        self.client.execute(script, Vec::new()).await
    }

    /// The rules that are to be seen.
    async fn rules(&self) -> Result<Vec<String>, CmdError> {
        let mut rules = Vec::new();
        for link in self.client.find_all(Locator::Css("#rules th > a")).await? {
            if link.is_displayed().await? {
                rules.push(link.text().await?);
            }
        }
        Ok(rules)
    }

    /// Wait until that is what the panel shows.
    async fn shows(&self, title: &str) -> Result<(), CmdError> {
        self.turns(&format!(
            "return document.querySelector('#panel[open] h2')?.textContent === {}",
            json!(title)
        ))
        .await
    }

    async fn shows_no_panel(&self) -> Result<(), CmdError> {
        self.turns("return !document.querySelector('#panel').open && location.hash === ''").await
    }

    /// Wait until a script says true.
    async fn turns(&self, script: &str) -> Result<(), CmdError> {
        let mut waited = Duration::ZERO;
        const PAUSE: Duration = Duration::from_millis(50);
        while self.says(script).await? != json!(true) {
            assert!(waited < PATIENCE, "never true: {script}");
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
        Ok(())
    }

    /// Nothing stands out to the right of the screen, letters are not too small, and links not too small for a finger.
    async fn is_readable(&self, selector: &str) -> Result<(), CmdError> {
        const SCRIPT: &str = "
            const [selector] = arguments;
            const top = document.querySelector(selector);
            const seen = [...top.querySelectorAll('*')].filter((element) => element.checkVisibility());
            const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
            const size = (element) => parseFloat(getComputedStyle(element).fontSize);
            const targets = seen.filter((element) => element.matches('.cell, button, select, summary, nav a'));
            return [top.scrollWidth, Math.min(...seen.filter(own).map(size)),
              Math.min(...targets.map((element) => element.getBoundingClientRect().height))];";
        let found = self.client.execute(SCRIPT, vec![json!(selector)]).await?;
        let [wide, letters, target] = [0, 1, 2].map(|at| found[at].as_f64().unwrap_or(f64::NAN));
        assert!(wide <= f64::from(self.width), "{selector} is {wide} wide");
        assert!(letters >= 12.0, "{selector} has letters of {letters}");
        assert!(target >= 24.0, "{selector} has a link of {target}");
        Ok(())
    }
}
