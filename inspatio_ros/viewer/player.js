// SPDX-License-Identifier: Apache-2.0
// Plays several videos frame by frame in step. What to play is in player_data.js:
//   window.INSPATIO_PLAYER = { title, subtitle, fps, frames,
//     videos: [{ name, label, note, file }], overlays: [{ name, label, key, on, colors, file }],
//     series: [{ label, unit, values: [number or null per frame] }] }
// A script, because a page opened from a folder may not read JSON.
"use strict";
(() => {
  const data = window.INSPATIO_PLAYER;
  const by = (id) => document.getElementById(id);
  const problems = [];
  function report(text) {
    problems.push(text);
    by("problem").textContent = problems.join("\n");
    by("problem").hidden = false;
  }
  if (!data || !Array.isArray(data.videos) || !data.videos.length || !(data.fps > 0)) {
    report("player_data.js is missing or names no videos. " +
      "Keep player.html, player.js, player.css, player_data.js and the videos in one folder.");
    return;
  }
  by("title").textContent = data.title || "inspatio_ros";
  document.title = by("title").textContent;
  by("subtitle").textContent = data.subtitle || "";

  const frames = Math.max(1, data.frames);
  const frameTime = (index) => (index + 0.5) / data.fps; // the middle: rounding cannot cross over
  const clips = []; // every <video>; the first is the clock

  function video(source, parent, overlay) {
    const element = document.createElement("video");
    element.muted = true;
    element.playsInline = true;
    element.preload = "auto";
    element.src = source.file;
    element.dataset.name = source.name;
    element.addEventListener("error", () => report(
      `Cannot play "${source.file}": it is not beside this page or the browser cannot decode it.`));
    if (overlay) { element.className = "overlay"; element.hidden = true; }
    parent.append(element);
    clips.push(element);
    return element;
  }

  const stacks = {};
  for (const source of data.videos) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = source.label || source.name;
    if (source.note) {
      const note = document.createElement("small");
      note.textContent = " " + source.note;
      caption.append(note);
    }
    const stack = document.createElement("div");
    stack.className = "stack";
    figure.append(caption, stack);
    by("videos").append(figure);
    stacks[source.name] = stack;
    video(source, stack, false);
  }
  const overlays = {};
  for (const source of data.overlays || []) {
    const stack = stacks[source.on];
    if (!stack) { report(`Overlay "${source.name}" lies on no video called "${source.on}".`); continue; }
    const element = video(source, stack, true);
    if (source.colors) element.classList.add(source.colors);
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.addEventListener("change", () => { element.hidden = !box.checked; });
    label.append(box, ` ${source.label || source.name}`);
    by("overlays").append(label);
    if (!source.key) continue;
    overlays[source.key.toLowerCase()] = box;
    label.title = `Key ${source.key.toUpperCase()}`;
    const key = document.createElement("dt"), what = document.createElement("dd");
    key.textContent = source.key.toUpperCase();
    what.textContent = `${source.label || source.name} over the video "${source.on}"`;
    by("keys").querySelector("dl").append(key, what);
  }

  const master = clips[0];
  let playing = false;
  let current = 0;

  function show(index) {
    current = Math.min(frames - 1, Math.max(0, index));
    by("seek").value = current;
    by("clock").textContent =
      `frame ${current + 1} / ${frames}   ${(current / data.fps).toFixed(2)} s`;
    for (const plot of plots) plot(current);
  }
  function seek(index) {
    const target = Math.min(frames - 1, Math.max(0, index));
    for (const clip of clips) clip.currentTime = frameTime(target);
    show(target);
  }
  function setPlaying(on) {
    playing = on;
    by("play").textContent = on ? "Pause" : "Play";
    if (on && current >= frames - 1) seek(0);
    for (const clip of clips) {
      if (on) clip.play().catch(() => { /* reported by the error event */ }); else clip.pause();
    }
    if (!on) seek(current);
    if (on) requestAnimationFrame(tick);
  }
  let speed = 1;
  function setSpeed(value) {
    speed = value;
    by("speed").value = String(value);
    for (const clip of clips) clip.playbackRate = value;
  }
  // Followers are kept on the first video: small lags by playing a little faster or slower,
  // larger ones by a jump.
  function follow() {
    const period = 1 / data.fps;
    for (const clip of clips.slice(1)) {
      const lag = master.currentTime - clip.currentTime;
      if (Math.abs(lag) > 2 * period) {
        clip.currentTime = master.currentTime;
        clip.playbackRate = speed;
      } else {
        const pull = Math.abs(lag) > 0.15 * period ? Math.max(-0.2, Math.min(0.2, 2 * lag)) : 0;
        clip.playbackRate = Math.max(0.25, speed * (1 + pull));
      }
      if (clip.paused && playing && !clip.ended) clip.play().catch(() => {});
    }
  }
  function tick() {
    if (!playing) return;
    follow();
    const index = Math.floor(master.currentTime * data.fps);
    if (index >= frames - 1 || master.ended) {
      if (by("loop").checked) { seek(0); for (const clip of clips) clip.play().catch(() => {}); }
      else { show(frames - 1); setPlaying(false); return; }
    } else show(index);
    requestAnimationFrame(tick);
  }

  const plots = (data.series || []).map((series) => {
    const values = series.values.map((v) => (Number.isFinite(v) ? v : null));
    const present = values.filter((v) => v !== null);
    if (!present.length) return () => {};
    const low = Math.min(...present), high = Math.max(...present);
    const row = document.createElement("div");
    row.className = "plot";
    const text = document.createElement("span");
    const canvas = document.createElement("canvas");
    row.append(text, canvas);
    by("plots").append(row);
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      seek(Math.floor(((event.clientX - box.left) / box.width) * frames));
    });
    return (index) => {
      const width = canvas.width = canvas.clientWidth * devicePixelRatio;
      const height = canvas.height = canvas.clientHeight * devicePixelRatio;
      const pen = canvas.getContext("2d");
      const x = (i) => ((i + 0.5) / frames) * width;
      const y = (v) => height - 4 - ((v - low) / (high - low || 1)) * (height - 8);
      pen.strokeStyle = "#6cb6ff";
      pen.lineWidth = 1.5 * devicePixelRatio;
      pen.lineCap = "round";
      pen.beginPath();
      let down = false;
      values.forEach((v, i) => {
        if (v === null) { down = false; return; }
        if (!down) pen.moveTo(x(i), y(v)); // and a dot, should it stand alone
        pen.lineTo(x(i), y(v));
        down = true;
      });
      pen.stroke();
      pen.fillStyle = "#ffd866";
      pen.fillRect(x(index) - 1, 0, 2, height);
      const now = values[index] === null || values[index] === undefined
        ? "–" : values[index].toPrecision(3);
      text.textContent = `${series.label}: ${now}${series.unit ? " " + series.unit : ""}`;
    };
  });

  by("seek").max = frames - 1;
  by("seek").addEventListener("input", () => seek(Number(by("seek").value)));
  by("play").addEventListener("click", () => setPlaying(!playing));
  by("back").addEventListener("click", () => { setPlaying(false); seek(current - 1); });
  by("forward").addEventListener("click", () => { setPlaying(false); seek(current + 1); });
  by("speed").addEventListener("change", () => setSpeed(Number(by("speed").value)));
  by("help").addEventListener("click", () => by("keys").showModal());
  addEventListener("resize", () => show(current));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || by("keys").open) return;
    const speeds = [0.5, 1, 1.5, 2];
    const step = event.shiftKey ? 10 : 1;
    const actions = {
      " ": () => setPlaying(!playing),
      ArrowLeft: () => { if (playing) setPlaying(false); seek(current - step); },
      ArrowRight: () => { if (playing) setPlaying(false); seek(current + step); },
      Home: () => seek(0),
      End: () => { if (playing) setPlaying(false); seek(frames - 1); },
      "+": () => setSpeed(speeds[Math.min(speeds.length - 1, speeds.indexOf(speed) + 1)]),
      "-": () => setSpeed(speeds[Math.max(0, speeds.indexOf(speed) - 1)]),
      l: () => by("loop").click(),
      "?": () => by("keys").showModal(),
    };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (overlays[key]) overlays[key].click();
    else if (actions[key]) actions[key]();
    else return;
    event.preventDefault();
  });

  // For tests and for other pages: what is shown now.
  window.inspatioPlayer = {
    seek, setPlaying, setSpeed,
    state: () => ({
      frame: current, playing, speed, problems: [...problems],
      frames: clips.map((c) => c.currentTime * data.fps), ready: clips.map((c) => c.readyState),
    }),
  };
  seek(0);
})();
