// Only one clip sounds at a time, and the line in a clip's onset plot follows whichever of its videos plays.
for (const clip of document.querySelectorAll(".clip")) {
  const videos = [...clip.querySelectorAll("video")];
  const plots = [...clip.querySelectorAll("svg.onsets")].map((plot) => ({
    plot,
    duration: Number(plot.dataset.duration),
    left: Number(plot.dataset.left),
    width: Number(plot.dataset.width),
  }));

  function follow(video) {
    for (const { plot, duration, left, width } of plots) {
      const x = left + Math.min(1, video.currentTime / duration) * width;
      const line = plot.querySelector(".playhead");
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
    if (!video.paused && !video.ended) requestAnimationFrame(() => follow(video));
  }

  for (const video of videos) {
    video.addEventListener("play", () => {
      for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
      follow(video);
    });
    video.addEventListener("seeked", () => follow(video));
  }

  for (const { plot, duration, left, width } of plots) {
    plot.addEventListener("click", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
      const share = (point.x - left) / width;
      const time = Math.max(0, Math.min(1, share)) * duration;
      const seek = () => (videos[0].currentTime = time);
      if (videos[0].readyState) return seek();
      videos[0].addEventListener("loadedmetadata", seek, { once: true });
      videos[0].preload = "auto";
    });
  }
}
