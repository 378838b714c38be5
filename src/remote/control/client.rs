//! A client of the job API: one request after another, over one connection.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::remote::address::Address;
use crate::remote::client::RemoteOptions;
use crate::remote::client::body::RequestBody;
use crate::remote::client::fault::RequestFault;
use crate::remote::client::transport::{RequestSender, ServerTarget, cause, connect};
use crate::remote::control::report::{HostList, HostReport, HostStanding};
use crate::remote::control::{
    ClaimRequest, EndReport, IDEMPOTENCY, Job, JobPage, NewJob, ProblemDetails, ProgressAnswer, ProgressReport, ROOT, is_id,
};
use crate::remote::protocol::Code;
use crate::remote::s3::sign::encoded;

/// The longest answer that is read, in bytes.
const LONGEST: usize = 8 << 20;

/// How long the answer to a report may take.
const BRIEF: Duration = Duration::from_secs(5);
/// So often a server says that it is there while nothing happens.
pub(crate) const SIGN: Duration = Duration::from_secs(15);
/// How long is waited before a server that is away is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// A client of the job API of a server.
pub struct JobClient {
    target: ServerTarget,
    authority: String,
    token: HeaderValue,
    timeout: Duration,
    sender: Mutex<Option<RequestSender>>,
    /// `None` only while this is dropped.
    runtime: Option<Runtime>,
}

impl Drop for JobClient {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn broken(how: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Io, format!("the server was not reached: {how}"))
}

impl JobClient {
    /// A client of the server of this repository. Nothing is sent yet.
    pub fn new(address: &Address, options: &RemoteOptions) -> Result<Self> {
        let Address::Https { host, port, .. } = address else {
            return Err(Error::invalid(format!("{address} is not on a server with jobs: that is https://HOST:PORT/NAME")));
        };
        let token = options.token.as_ref().ok_or_else(|| {
            let text = "jobs need a token: set YESTER_TOKEN, YESTER_TOKEN_FILE or YESTER_TOKEN_COMMAND";
            Error::new(ErrorKind::Key, text)
        })?;
        let value = zeroize::Zeroizing::new(format!("Bearer {}", token.as_str()));
        let wrong = |_| Error::new(ErrorKind::Key, "the token has characters that no token has");
        let mut token = HeaderValue::from_str(&value).map_err(wrong)?;
        token.set_sensitive(true);
        let config = std::sync::Arc::new(options.trust.config()?);
        let target = ServerTarget::Tls { host: host.clone(), port: *port, config };
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("yester-jobs")
            .enable_all()
            .build()
            .map_err(|e| Error::io("cannot start the threads of the network", e))?;
        let (sender, timeout) = (Mutex::default(), options.timeout);
        Ok(JobClient { target, authority: format!("{bracketed}:{port}"), token, timeout, sender, runtime: Some(runtime) })
    }

    /// Asks for a job. With a key, a repeat is the same job, as long as the server keeps that.
    pub fn create(&self, job: &NewJob, key: Option<&str>) -> Result<Job> {
        self.call(Method::POST, "/jobs", Some(json(job)?), key, Duration::ZERO).and_then(|body| read(&body))
    }

    /// A page of jobs: what is asked for in a list, as names and values (docs/api.md).
    pub fn list(&self, fields: &[(&str, &str)]) -> Result<JobPage> {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", encoded(value.as_bytes(), b""))).collect();
        self.call(Method::GET, &format!("/jobs?{}", fields.join("&")), None, None, Duration::ZERO).and_then(|body| read(&body))
    }

    /// One job.
    pub fn job(&self, id: &str) -> Result<Job> {
        self.call(Method::GET, &format!("/jobs/{id}"), None, None, Duration::ZERO).and_then(|body| read(&body))
    }

    /// Asks for the end of a job.
    pub fn cancel(&self, id: &str) -> Result<Job> {
        self.call(Method::POST, &format!("/jobs/{id}/cancel"), None, None, Duration::ZERO).and_then(|body| read(&body))
    }

    /// Asks for work, and waits for it as long as the request says.
    pub fn claim(&self, request: &ClaimRequest) -> Result<Option<Job>> {
        let wait = Duration::from_secs(request.wait);
        taken(&self.call(Method::POST, "/agent/claim", Some(json(request)?), None, wait)?)
    }

    /// Says how far a job is; whether it is to end. A server that does not answer is not waited for long: who stops the job
    /// would wait as well.
    pub fn progress(&self, id: &str, report: &ProgressReport) -> Result<bool> {
        let body = json(report)?;
        let body = self.wait(async {
            let told = async {
                let path = format!("/agent/jobs/{id}/progress");
                let answer = self.answer(Method::POST, &path, Some(body), None, Duration::ZERO).await?;
                self.body(answer).await
            };
            match tokio::time::timeout(BRIEF, told).await {
                Ok(told) => told,
                Err(_) => {
                    // It may be dead without knowing.
                    *self.sender.lock().await = None;
                    Err(broken(format!("no answer within {} s", BRIEF.as_secs())))
                }
            }
        })?;
        read(&body).map(|answer: ProgressAnswer| answer.cancel)
    }

    /// Says how a job ended.
    pub fn end(&self, id: &str, report: &EndReport) -> Result<()> {
        self.call(Method::POST, &format!("/agent/jobs/{id}/end"), Some(json(report)?), None, Duration::ZERO).map(drop)
    }

    /// Says how the sets of a host stand.
    pub fn report(&self, report: &HostReport) -> Result<()> {
        self.call(Method::POST, "/agent/report", Some(json(report)?), None, Duration::ZERO).map(drop)
    }

    /// The hosts whose agents have reported, with their sets.
    pub fn hosts(&self) -> Result<Vec<HostStanding>> {
        let body = self.call(Method::GET, "/hosts", None, None, Duration::ZERO)?;
        read(&body).map(|list: HostList| list.hosts)
    }

    /// Gives every state of a job to `each`, until it is over, the server stops, or `each` says no.
    pub fn watch(&self, id: &str, mut each: impl FnMut(Job) -> Result<bool>) -> Result<()> {
        self.wait(async {
            let mut answer = self.answer(Method::GET, &format!("/jobs/{id}/events"), None, None, Duration::ZERO).await?;
            let mut text = Vec::new();
            loop {
                let frame = tokio::time::timeout(self.timeout + SIGN, answer.body_mut().frame());
                let frame = match frame.await.map_err(|_| broken("it sends nothing more"))? {
                    None => return Ok(()),
                    Some(frame) => frame.map_err(|e| broken(cause(&e)))?,
                };
                text.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
                if text.len() > LONGEST {
                    return Err(broken("its answer is too long"));
                }
                while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = text.drain(..end + 2).collect();
                    let data = event.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"data: "));
                    if let Some(data) = data
                        && !each(read(data)?)?
                    {
                        return Ok(());
                    }
                }
            }
        })
    }

    /// Gives every state of a job to `each`, until it is over or `each` says no. A server that goes away is waited for, as
    /// long as the timeout says.
    pub fn follow(&self, id: &str, mut each: impl FnMut(&Job) -> Result<()>) -> Result<Job> {
        let (mut last, mut away): (Option<Job>, Option<Instant>) = (None, None);
        loop {
            let mut failed = Ok(());
            let watched = self.watch(id, |job| {
                away = None;
                if last.as_ref() != Some(&job) {
                    failed = each(&job);
                }
                let goes_on = failed.is_ok() && !job.state.is_over();
                last = Some(job);
                Ok(goes_on)
            });
            failed?;
            let since = *away.get_or_insert_with(Instant::now);
            let why = match (watched, &last) {
                (_, Some(job)) if job.state.is_over() => return Ok(job.clone()),
                (Err(e), Some(_)) if e.kind() == ErrorKind::Io => e,
                (Err(e), _) => return Err(e),
                (Ok(()), _) => broken(format!("it was stopped before job {id} was over: yester job watch {id} goes on")),
            };
            if since.elapsed() >= self.timeout {
                return Err(why);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => Err(broken("the connection has been closed")),
        }
    }

    fn call(&self, method: Method, path: &str, body: Option<Vec<u8>>, key: Option<&str>, longer: Duration) -> Result<Vec<u8>> {
        self.wait(async {
            let answer = self.answer(method, path, body, key, longer).await?;
            self.body(answer).await
        })
    }

    async fn body(&self, mut answer: Response<Incoming>) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let read = async {
            while let Some(frame) = answer.body_mut().frame().await {
                let frame = frame.map_err(|e| broken(cause(&e)))?;
                body.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
                if body.len() > LONGEST {
                    return Err(broken("its answer is too long"));
                }
            }
            Ok(())
        };
        tokio::time::timeout(self.timeout, read).await.map_err(|_| broken("it sends nothing more"))??;
        Ok(body)
    }

    /// Sends a request; the answer if it is no refusal. The server has `longer` than usual.
    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        key: Option<&str>,
        longer: Duration,
    ) -> Result<Response<Incoming>> {
        let mut sender = self.sender().await?;
        let request = self.request(method, path, body, key)?;
        let answered = tokio::time::timeout(self.timeout + longer, sender.send(request)).await;
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            failed => {
                // It may be dead without knowing.
                *self.sender.lock().await = None;
                return Err(match failed {
                    Ok(Err(e)) => broken(cause(&e)),
                    _ => broken(format!("no answer within {} s", (self.timeout + longer).as_secs())),
                });
            }
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let body = self.body(answer).await?;
        match serde_json::from_slice::<ProblemDetails>(&body) {
            Ok(problem) => Err(problem.into_error()),
            Err(_) if status == 404 || status == Code::Invalid.status() => {
                Err(Error::new(ErrorKind::Unsupported, "this server has no job API: it is no yester server, or an older one"))
            }
            Err(_) => Err(broken(format!("it answered {status}"))),
        }
    }

    async fn sender(&self) -> Result<RequestSender> {
        let mut place = self.sender.lock().await;
        if let Some(sender) = place.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = connect(&self.target, self.timeout).await.map_err(|fault: RequestFault| fault.error())?;
        *place = Some(sender.clone());
        Ok(sender)
    }

    fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>, key: Option<&str>) -> Result<Request<RequestBody>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{ROOT}{path}", self.authority))
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json, application/problem+json, text/event-stream")
            .header(AUTHORIZATION, self.token.clone());
        if let Some(key) = key {
            request = request.header(IDEMPOTENCY, key);
        }
        let content = match body {
            None => RequestBody::none(),
            Some(bytes) => {
                request = request.header(CONTENT_TYPE, "application/json").header(hyper::header::CONTENT_LENGTH, bytes.len());
                let (pieces, content) = RequestBody::measured(bytes.len() as u64);
                pieces.try_send(Bytes::from(bytes)).map_err(broken)?;
                content
            }
        };
        request.body(content).map_err(|e| Error::invalid(format!("the request cannot be made: {e}")))
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::invalid(e.to_string()))
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| broken(format!("its answer makes no sense: {e}")))
}

/// The job that the answer to a claim has, if it has one. Its id is said to be one, since it becomes part of paths.
fn taken(body: &[u8]) -> Result<Option<Job>> {
    if body.is_empty() {
        return Ok(None);
    }
    let job: Job = read(body)?;
    match is_id(&job.id) {
        true => Ok(Some(job)),
        false => Err(broken("it names a job with what is no id")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::remote::control::JobProgress;

    #[test]
    fn the_id_of_a_job_that_is_taken_is_digits_and_nothing_else() {
        let answer = |id: &str| {
            let rest = r#""kind":"check","host":"h","state":"running","created_at":"","updated_at":"","token":""#;
            let flags = r#""is_downloadable":false,"cancel_requested":false,"lost":false"#;
            taken(format!(r#"{{"id":"{id}",{rest}",{flags}}}"#).as_bytes())
        };
        assert_eq!(answer("0123456789abcdef").unwrap().unwrap().id, "0123456789abcdef");
        assert!(taken(b"").unwrap().is_none());
        for bad in ["", "../jobs/x/cancel?", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0"] {
            let e = answer(bad).unwrap_err();
            assert!(e.to_string().contains("no id"), "{bad}: {e}");
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_not_waited_for_long_with_a_report() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::https(format!("{}/web", silent.local_addr().unwrap()).as_bytes()).unwrap();
        let token = Some(zeroize::Zeroizing::new("token".to_owned()));
        let options = RemoteOptions { token, timeout: Duration::from_secs(3600), ..RemoteOptions::default() };
        let client = JobClient::new(&address, &options).unwrap();
        let report = ProgressReport { claim: String::new(), progress: JobProgress::default() };
        let e = client.progress("0123456789abcdef", &report).unwrap_err();
        assert!(e.kind() == ErrorKind::Io && e.to_string().contains("within 5 s"), "{e}");
    }
}
