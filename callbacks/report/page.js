// Clips play muted while they are in view; one at most sounds. The videos of a clip are kept in step with the one that
// leads: the one that sounds, else the generated one.
const clips = [...document.querySelectorAll(".clip")].map((card) => new Clip(card));

function Clip(card) {
  const videos = [...card.querySelectorAll("video")];
  const plots = [...card.querySelectorAll(".onsets")];
  const [play, sound, seek, clock] = ["play", "sound", "seek", "clock"].map((name) => card.querySelector(`.${name}`));
  const generated = card.querySelector('[data-kind="generated"] video') ?? videos[0];
  let leader = generated;
  let wanted = false;
  let frame = 0;
  let held = false; // paused by hand: scrolling does not start it

  const duration = () => leader.duration || Number(plots[0]?.dataset.duration) || 1;

  function show() {
    const time = leader.currentTime;
    for (const plot of plots) {
      const share = Math.min(1, time / Number(plot.dataset.duration));
      plot.querySelector(".playhead").style.left = `${100 * share}%`;
    }
    seek.value = time / duration();
    clock.textContent = `${time.toFixed(1)} s`;
  }

  function follow() {
    show();
    if (!wanted) return;
    for (const video of videos) {
      if (video.seeking || video.readyState < 2) continue;
      let behind = leader.currentTime - video.currentTime;
      // at the end of the loop one may be ahead by a whole round
      behind -= duration() * Math.round(behind / duration());
      if (Math.abs(behind) > 0.3) video.currentTime = Math.min(leader.currentTime, video.duration);
      // small differences are run off: a jump takes longer than they are
      const rate = Math.abs(behind) < 0.01 ? 1 : 1 + Math.max(-0.2, Math.min(0.2, Math.round(20 * behind) / 10));
      if (video.playbackRate !== rate) video.playbackRate = rate;
    }
    frame = requestAnimationFrame(follow);
  }

  this.card = card;
  this.start = () => {
    if (wanted || held) return;
    wanted = true;
    play.textContent = "pause";
    // a browser that forbids it leaves the button at "play"
    Promise.all(videos.map((video) => video.play())).catch(() => leader.paused && this.stop());
    follow();
  };
  this.stop = () => {
    wanted = false;
    cancelAnimationFrame(frame);
    play.textContent = "play";
    for (const video of videos) video.pause();
    this.silence();
  };
  this.silence = () => {
    for (const video of videos) {
      video.muted = true;
      video.parentElement.classList.remove("sounding");
    }
    sound.setAttribute("aria-pressed", "false");
  };
  this.listen = (video) => {
    const sounds = !video.muted;
    for (const clip of clips) clip.silence();
    if (sounds) return;
    leader = video;
    video.muted = false;
    video.parentElement.classList.add("sounding");
    sound.setAttribute("aria-pressed", "true");
    held = false;
    this.start();
  };

  const go = (share) => {
    for (const video of videos) {
      const jump = () => (video.currentTime = share * duration());
      if (video.readyState) jump();
      else {
        video.addEventListener("loadedmetadata", jump, { once: true });
        video.preload = "auto";
      }
    }
  };

  for (const video of videos) {
    video.addEventListener("click", () => this.listen(video));
    video.addEventListener("seeked", show);
  }
  sound.addEventListener("click", () => this.listen(leader.muted ? generated : leader));
  play.addEventListener("click", () => {
    held = wanted;
    if (wanted) this.stop();
    else this.start();
  });
  seek.addEventListener("input", () => go(Number(seek.value)));
  for (const plot of plots) {
    plot.addEventListener("click", (event) => {
      const box = plot.querySelector(".time").getBoundingClientRect();
      const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
      go((share * Number(plot.dataset.duration)) / duration());
    });
  }
}

const moves = !matchMedia("(prefers-reduced-motion: reduce)").matches;
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const clip = clips.find(({ card }) => card === target.parentElement);
      if (!isIntersecting) clip.stop();
      else if (moves) clip.start();
    }
  },
  { threshold: 0.3 },
);
for (const { card } of clips) watcher.observe(card.querySelector(".players"));

for (const button of document.querySelectorAll(".copy")) {
  const text = button.previousElementSibling;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = document.execCommand("copy") ? "copied" : "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}
