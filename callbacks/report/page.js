// Only one clip sounds at a time, and the line in a clip's onset plot follows whichever of its videos plays.
for (const clip of document.querySelectorAll(".clip")) {
  const plot = clip.querySelector("svg.onsets");
  const videos = [...clip.querySelectorAll("video")];
  const geometry = plot && {
    duration: Number(plot.dataset.duration),
    left: Number(plot.dataset.left),
    width: Number(plot.dataset.width),
  };

  function follow(video) {
    if (plot) {
      const x = geometry.left + Math.min(1, video.currentTime / geometry.duration) * geometry.width;
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

  plot?.addEventListener("click", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
    const share = (point.x - geometry.left) / geometry.width;
    const time = Math.max(0, Math.min(1, share)) * geometry.duration;
    const seek = () => (videos[0].currentTime = time);
    if (videos[0].readyState) return seek();
    videos[0].addEventListener("loadedmetadata", seek, { once: true });
    videos[0].preload = "auto";
  });
}
