//! The figures that this service is to reach, measured one after the other: some twelve minutes on
//! a machine that does nothing else.

use std::{fs, io, time::Duration};

use crate::{
    compare::compare,
    options::Options,
    report::{Report, median, say},
    scenarios::{fanout, idle, storm, unicast},
    servers::{Instance, Recipe, binary_beside},
};

/// The table as it grows.
struct Figures {
    options: Options,
    report: Report,
}

/// A bound that a figure has to keep.
#[derive(Clone, Copy, Debug)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// Measures everything.
pub(crate) async fn figures(options: &Options) -> io::Result<Report> {
    let report = Report::new("figures");
    let mut figures = Figures { options: options.clone(), report };
    figures.start().await?;
    figures.memory().await?;
    figures.connects().await?;
    figures.fan_out().await?;
    figures.notifications().await?;
    figures.hundred_thousand().await?;
    Ok(figures.report)
}

impl Figures {
    /// Options of one scenario.
    fn with(&self, change: impl FnOnce(&mut Options)) -> Options {
        let mut options = self.options.clone();
        change(&mut options);
        options
    }

    fn row(&mut self, what: &str, value: f64, unit: &str, target: Target) {
        let (is_met, target) = match target {
            Target::AtMost(most) => (value <= most, format!("at most {most}")),
            Target::AtLeast(least) => (value >= least, format!("at least {least}")),
        };
        let verdict = if is_met { "met" } else { "MISSED" };
        self.report.put(what, format!("{value:.2} {unit}  ({target}: {verdict})"));
    }

    async fn start(&mut self) -> io::Result<()> {
        say("binary and cold start")?;
        let binary = self.options.binary.clone().map_or_else(binary_beside, Ok)?;
        let bytes = fs::metadata(&binary)?.len();
        self.row("release_binary", bytes as f64 / 1e6, "MB", Target::AtMost(12.0));
        let recipe = Recipe { binary, secret: "of a start".to_owned(), redis: None, plain: false };
        let mut starts = Vec::new();
        for _ in 0..5 {
            let instance = Instance::start(&recipe).await?;
            starts.push(instance.ready_after.unwrap_or_default().as_secs_f64() * 1e3);
            instance.stop().await?;
        }
        self.row("cold_start_to_ready", median(&starts), "ms", Target::AtMost(100.0));
        Ok(())
    }

    async fn memory(&mut self) -> io::Result<()> {
        for (who, anonymous, most) in
            [("authenticated", false, 2_000.0), ("anonymous", true, 1_600.0)]
        {
            let options = self.with(|options| {
                options.connections = 10_000;
                options.anonymous = anonymous;
                (options.messages, options.bytes) = (100, 4_096);
                options.idle = Duration::from_secs(60);
            });
            let report = idle(&options).await?;
            let value = |name| report.number(name);
            let before = value("rss_bytes_per_connection")?;
            let growth = 100.0 * (value("rss_bytes_per_connection_after")? / before - 1.0);
            let name = |what: &str| format!("{what}_{who}");
            self.row(&name("rss_per_connection"), before, "B", Target::AtMost(most));
            self.row(&name("rss_growth_after_100_x_4_KiB"), growth, "%", Target::AtMost(15.0));
            let returned = value("rss_returned_percent")?;
            self.row(&name("rss_returned_after_60_s"), returned, "%", Target::AtLeast(90.0));
            let idle_cpu = value("idle_cpu_percent")?;
            self.row(&name("idle_cpu"), idle_cpu, "%", Target::AtMost(1.0));
        }
        Ok(())
    }

    async fn connects(&mut self) -> io::Result<()> {
        let mut costs = Vec::new();
        for _ in 0..5 {
            let report = storm(&self.with(|options| options.connections = 10_000)).await?;
            costs.push(report.number("cpu_us_per_connect")?);
        }
        self.row("cpu_per_connect", median(&costs), "us", Target::AtMost(80.0));
        Ok(())
    }

    async fn fan_out(&mut self) -> io::Result<()> {
        for (receivers, messages) in [(1_000, 200), (10_000, 20)] {
            let options = self.with(|options| {
                options.connections = receivers;
                options.messages = messages;
            });
            let report = compare(&options).await?;
            let value = |name| report.number(name);
            let name = |what: &str| format!("{what}_to_{receivers}");
            let least = value("yardstick_cpu_us")?;
            self.report.put(&name("yardstick"), format!("{least:.2} us"));
            let ratio = value("one_in_flight_ratio")?;
            self.row(&name("fan_out_ratio"), ratio, "", Target::AtMost(1.25));
            if receivers == 1_000 {
                let user = value("one_in_flight_user_us")?;
                self.row(&name("user_cpu_per_delivery"), user, "us", Target::AtMost(0.8));
                let ratio = value("sixteen_in_flight_ratio")?;
                self.row(&name("ratio_with_16_in_flight"), ratio, "", Target::AtMost(0.22));
            }
        }
        Ok(())
    }

    async fn notifications(&mut self) -> io::Result<()> {
        let report = unicast(&self.with(|options| options.messages = 5_000)).await?;
        let p50 = report.number("delivery_p50_us")?;
        self.row("notification_p50", p50, "us", Target::AtMost(150.0));
        let p99 = report.number("delivery_p99_us")?;
        self.row("notification_p99", p99, "us", Target::AtMost(1_000.0));
        let options = self.with(|options| (options.messages, options.instances) = (5_000, 3));
        let report = unicast(&options).await?;
        let p99 = report.number("delivery_p99_us")?;
        self.row("notification_p99_3_instances_redis", p99, "us", Target::AtMost(3_000.0));
        let calls = report.number("script_calls_per_notification")?;
        self.row("script_calls_per_publish", calls, "", Target::AtMost(1.0));
        let elsewhere = report.number("publications_received_per_notification")? - 1.0;
        let what = "publications_received_without_members";
        self.row(what, elsewhere.max(0.0), "", Target::AtMost(0.0));
        Ok(())
    }

    async fn hundred_thousand(&mut self) -> io::Result<()> {
        let options = self.with(|options| {
            (options.connections, options.instances) = (100_000, 6);
            options.messages = 3;
        });
        let report = fanout(&options).await?;
        let rate = report.number("connects_per_second")?;
        self.row("connects_per_second_of_100_000", rate, "/s", Target::AtLeast(3_000.0));
        let lost = report.number("lost")?;
        self.row("lost_of_300_000_messages", lost, "", Target::AtMost(0.0));
        Ok(())
    }
}
